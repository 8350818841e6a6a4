# ruff: noqa: E501  (one row, one line)
"""The sizes of base models whose config.json is public, for an estimate without their folder.

    known_sizes("meta-llama/Llama-3.1-8B")  ->  {"model_type": "llama", "hidden_size": 4096, ...}

Other models have no estimate until their folder is on the machine: nothing is guessed.
"""

from __future__ import annotations

from typing import Any

from xtuner.recipes.models import MODELS

_KEYS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
)


def _sizes(family: str, *numbers: int, tied: bool = False, head: int = 0, **more: Any) -> dict[str, Any]:
    found = {"model_type": family, **dict(zip(_KEYS, numbers, strict=True)), "tie_word_embeddings": tied}
    return {**found, **({"head_dim": head} if head else {}), "torch_dtype": "bfloat16", **more}


_LLAMA_7B = _sizes("llama", 4096, 32, 32, 32, 11008, 32000)
_LLAMA_8B = _sizes("llama", 4096, 32, 32, 8, 14336, 128256)
_LLAMA_70B = _sizes("llama", 8192, 80, 64, 8, 28672, 128256)
_LLAMA_1B = _sizes("llama", 2048, 16, 32, 8, 8192, 128256, tied=True)
_LLAMA_3B = _sizes("llama", 3072, 28, 24, 8, 8192, 128256, tied=True)
_MISTRAL_7B = _sizes("mistral", 4096, 32, 32, 8, 14336, 32000)
_NEMO = _sizes("mistral", 5120, 40, 32, 8, 14336, 131072, head=128)
_MIXTRAL = _sizes("mixtral", 4096, 32, 32, 8, 14336, 32000, num_local_experts=8, num_experts_per_tok=2)
_QWEN_MOE: dict[str, Any] = {"num_experts": 128, "num_experts_per_tok": 8}
_QWEN2_0_5B = _sizes("qwen2", 1024, 24, 16, 16, 2816, 151936, tied=True)
_QWEN2_5_7B = _sizes("qwen2", 3584, 28, 28, 4, 18944, 152064)
_QWEN2_5_14B = _sizes("qwen2", 5120, 48, 40, 8, 13824, 152064)
_QWEN2_5_32B = _sizes("qwen2", 5120, 64, 40, 8, 27648, 152064)
_QWEN3_30B = _sizes(
    "qwen3_moe", 2048, 48, 32, 4, 6144, 151936, head=128, moe_intermediate_size=768, **_QWEN_MOE
)
_QWEN3_235B = _sizes(
    "qwen3_moe", 4096, 94, 64, 4, 12288, 151936, head=128, moe_intermediate_size=1536, **_QWEN_MOE
)
_INTERNLM2_1_8B = _sizes("internlm2", 2048, 24, 16, 8, 8192, 92544)
_INTERNLM2_7B = _sizes("internlm2", 4096, 32, 32, 8, 14336, 92544)
_INTERNLM2_20B = _sizes("internlm2", 6144, 48, 48, 8, 16384, 92544)

# row of `models.py` -> sizes; rows that differ only in training have the same
SIZES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("llama_7b", "llama2_7b", "llama2_7b_chat", "vicuna_7b_v15"), _LLAMA_7B),
    "vicuna_13b_v15": _sizes("llama", 5120, 40, 40, 40, 13824, 32000),
    "llama2_70b": _sizes("llama", 8192, 80, 64, 8, 28672, 32000),
    **dict.fromkeys(("llama3_8b", "llama3_8b_instruct", "llama3_1_8b", "llama3_1_8b_instruct"), _LLAMA_8B),
    "deepseek_r1_distill_llama_8b": _LLAMA_8B,
    **dict.fromkeys(("llama3_70b_instruct", "llama3_1_70b", "llama3_1_70b_instruct"), _LLAMA_70B),
    **dict.fromkeys(("llama3_3_70b_instruct", "deepseek_r1_distill_llama_70b"), _LLAMA_70B),
    **dict.fromkeys(("llama3_2_1b", "llama3_2_1b_instruct"), _LLAMA_1B),
    **dict.fromkeys(("llama3_2_3b", "llama3_2_3b_instruct"), _LLAMA_3B),
    "yi_6b": _sizes("llama", 4096, 32, 32, 4, 11008, 64000),
    **dict.fromkeys(("yi_34b", "yi_34b_200k"), _sizes("llama", 7168, 60, 56, 8, 20480, 64000)),
    **dict.fromkeys(("deepseek_coder_6_7b_base", "deepseekcoder_6_7b_instruct"),
                    _sizes("llama", 4096, 32, 32, 32, 11008, 32256)),
    **dict.fromkeys(("mistral_7b", "zephyr_7b_beta"), _MISTRAL_7B),
    **dict.fromkeys(("mistral_nemo_base", "mistral_nemo_instruct"), _NEMO),
    **dict.fromkeys(("mixtral_8x7b", "mixtral_8x7b_instruct"), _MIXTRAL),
    **dict.fromkeys(("qwen1_5_0_5b", "qwen1_5_0_5b_chat"), _QWEN2_0_5B),
    **dict.fromkeys(("qwen1_5_1_8b", "qwen1_5_1_8b_chat"), _sizes("qwen2", 2048, 24, 16, 16, 5504, 151936)),
    **dict.fromkeys(("qwen1_5_4b", "qwen1_5_4b_chat"), _sizes("qwen2", 2560, 40, 20, 20, 6912, 151936)),
    **dict.fromkeys(("qwen1_5_7b", "qwen1_5_7b_chat"), _sizes("qwen2", 4096, 32, 32, 32, 11008, 151936)),
    **dict.fromkeys(("qwen1_5_14b", "qwen1_5_14b_chat"), _sizes("qwen2", 5120, 40, 40, 40, 13696, 152064)),
    **dict.fromkeys(("qwen1_5_72b", "qwen1_5_72b_chat"), _sizes("qwen2", 8192, 80, 64, 64, 24576, 152064)),
    **dict.fromkeys(("qwen1_5_110b", "qwen1_5_110b_chat"), _sizes("qwen2", 8192, 80, 64, 8, 49152, 152064)),
    **dict.fromkeys(("qwen2_5_0_5b", "qwen2_5_0_5b_instruct"),
                    _sizes("qwen2", 896, 24, 14, 2, 4864, 151936, tied=True)),
    **dict.fromkeys(("qwen2_5_1_5b", "qwen2_5_1_5b_instruct"),
                    _sizes("qwen2", 1536, 28, 12, 2, 8960, 151936, tied=True)),
    "deepseek_r1_distill_qwen_1_5b": _sizes("qwen2", 1536, 28, 12, 2, 8960, 151936),
    **dict.fromkeys(("qwen2_5_3b", "qwen2_5_3b_instruct"),
                    _sizes("qwen2", 2048, 36, 16, 2, 11008, 151936, tied=True)),
    **dict.fromkeys(("qwen2_5_7b", "qwen2_5_7b_instruct", "deepseek_r1_distill_qwen_7b"), _QWEN2_5_7B),
    **dict.fromkeys(("qwen2_5_14b", "qwen2_5_14b_instruct", "deepseek_r1_distill_qwen_14b"), _QWEN2_5_14B),
    **dict.fromkeys(("qwen2_5_32b", "qwen2_5_32b_instruct", "deepseek_r1_distill_qwen_32b"), _QWEN2_5_32B),
    **dict.fromkeys(("qwen2_5_72b", "qwen2_5_72b_instruct"), _sizes("qwen2", 8192, 80, 64, 8, 29568, 152064)),
    **dict.fromkeys(("qwen3_0_6b", "qwen3_0_6b_base"),
                    _sizes("qwen3", 1024, 28, 16, 8, 3072, 151936, tied=True, head=128)),
    **dict.fromkeys(("qwen3_1_7b", "qwen3_1_7b_base"),
                    _sizes("qwen3", 2048, 28, 16, 8, 6144, 151936, tied=True, head=128)),
    **dict.fromkeys(("qwen3_4b", "qwen3_4b_base"),
                    _sizes("qwen3", 2560, 36, 32, 8, 9728, 151936, tied=True, head=128)),
    **dict.fromkeys(("qwen3_8b", "qwen3_8b_base"), _sizes("qwen3", 4096, 36, 32, 8, 12288, 151936, head=128)),
    **dict.fromkeys(("qwen3_14b", "qwen3_14b_base"), _sizes("qwen3", 5120, 40, 40, 8, 17408, 151936, head=128)),
    "qwen3_32b": _sizes("qwen3", 5120, 64, 64, 8, 25600, 151936, head=128),
    **dict.fromkeys(("qwen3_30b_a3b", "qwen3_30b_a3b_base"), _QWEN3_30B),
    "qwen3_235b_a22b": _QWEN3_235B,
    **dict.fromkeys(("gemma_2b", "gemma_2b_it"), _sizes("gemma", 2048, 18, 8, 1, 16384, 256000, tied=True, head=256)),
    **dict.fromkeys(("gemma_7b", "gemma_7b_it"), _sizes("gemma", 3072, 28, 16, 16, 24576, 256000, tied=True, head=256)),
    **dict.fromkeys(("gemma2_2b", "gemma2_2b_it"), _sizes("gemma2", 2304, 26, 8, 4, 9216, 256000, tied=True, head=256)),
    **dict.fromkeys(("gemma2_9b", "gemma2_9b_it"), _sizes("gemma2", 3584, 42, 16, 8, 14336, 256000, tied=True, head=256)),
    **dict.fromkeys(("gemma2_27b", "gemma2_27b_it"), _sizes("gemma2", 4608, 46, 32, 16, 36864, 256000, tied=True, head=128)),
    **dict.fromkeys(("gemma3_1b", "gemma3_1b_it"), _sizes("gemma3_text", 1152, 26, 4, 1, 6912, 262144, tied=True, head=256)),
    **dict.fromkeys(("internlm2_1_8b", "internlm2_chat_1_8b", "internlm2_5_1_8b", "internlm2_5_chat_1_8b"), _INTERNLM2_1_8B),
    **dict.fromkeys(("internlm2_7b", "internlm2_chat_7b", "internlm2_5_7b", "internlm2_5_chat_7b"), _INTERNLM2_7B),
    **dict.fromkeys(("internlm2_20b", "internlm2_chat_20b", "internlm2_5_20b", "internlm2_5_chat_20b"), _INTERNLM2_20B),
    **dict.fromkeys(("glm4_9b", "glm4_9b_chat"), _sizes("glm", 4096, 40, 32, 2, 13696, 151552, head=128, attention_bias=True)),
    "glm4_9b_0414": _sizes("glm4", 4096, 40, 32, 2, 13696, 151552, head=128, attention_bias=True),
    **dict.fromkeys(("phi3_mini_4k_instruct", "phi3_mini_128k_instruct"), _sizes("phi3", 3072, 32, 32, 32, 8192, 32064)),
    "phi4": _sizes("phi3", 5120, 40, 40, 10, 17920, 100352),
    "phi4_mini_instruct": _sizes("phi3", 3072, 32, 24, 8, 8192, 200064, tied=True),
    **dict.fromkeys(("smollm2_135m", "smollm2_135m_instruct"), _sizes("llama", 576, 30, 9, 3, 1536, 49152, tied=True)),
    **dict.fromkeys(("smollm2_360m", "smollm2_360m_instruct"), _sizes("llama", 960, 32, 15, 5, 2560, 49152, tied=True)),
    **dict.fromkeys(("smollm2_1_7b", "smollm2_1_7b_instruct"), _sizes("llama", 2048, 24, 32, 32, 8192, 49152, tied=True)),
    **dict.fromkeys(("smollm3_3b", "smollm3_3b_base"), _sizes("smollm3", 2048, 36, 16, 4, 11008, 128256, tied=True)),
}  # fmt: skip


def known_sizes(path: str) -> dict[str, Any] | None:
    """The config.json of the model of that name on the hub, reduced to sizes; None if it is not known."""
    for name, sizes in SIZES.items():
        # InternLM publishes chat models before their preference training too, with the ending -sft.
        if path.removesuffix("-sft") == MODELS[name].path:
            return {**sizes, "max_position_embeddings": MODELS[name].context}
    return None
