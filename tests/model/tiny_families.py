"""A tiny model of every family of causal language models that transformers has, where its config allows one.

What makes attention another one far out in a sample, windows, chunks and the like, begins after four tokens.
"""

from __future__ import annotations

import contextlib
import io
import re
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from xtuner import loadable
from xtuner.families import FAMILIES
from xtuner.model.loading import register_families

register_families()

TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MOE = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MLA = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
    "num_key_value_heads": 4,
}
# Fields that are set in every config that has them.
FIELDS = {
    **MOE,
    **{name: size for name, size in MLA.items() if name != "num_key_value_heads"},
    "moe_topk": 2,
    "shared_expert_intermediate_size": 16,
    "intermediate_size_mlp": 32,
    "sliding_window": 4,
    "use_sliding_window": True,
    "max_window_layers": 1,
    "attention_chunk_size": 4,
    "floor_scale": 4,
    "window_size": 4,
    "attention_window_size": 4,
    "local_attention": 8,
    "sliding_window_size": 4,
    "index_topk": 4,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "linear_num_heads": 4,
    "linear_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "mamba_d_ssm": 32,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_expand": 1,
    "mamba_chunk_size": 4,
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "ssm_state_size": 8,
    "n_groups": 1,
    "chunk_size": 4,
    "state_size": 8,
    "time_step_rank": 4,
    "n_embd": 32,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 64,
    "n_heads": 4,
    "n_layers": 2,
    "d_model": 32,
    "ffn_dim": 64,
    "word_embed_proj_dim": 32,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 64,
    "laurel_rank": 4,
    "num_kv_shared_layers": 0,
    "altup_num_inputs": 2,
}
_MLA_HEADS = {"num_key_value_heads": 4}
_ZAMBA = {"layer_types": ["mamba", "hybrid", "hybrid"], "num_hidden_layers": 3, "num_key_value_heads": 4}
OWN: dict[str, dict[str, Any]] = {
    "axk1": _MLA_HEADS,
    "axk2": _MLA_HEADS,
    "codegen": {"rotary_dim": 8},
    "cohere_compass_text": {"layer_types": ["sliding_attention", "full_attention"]},
    "dbrx": {
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8},
    },
    "deepseek_v2": _MLA_HEADS,
    "deepseek_v3": _MLA_HEADS,
    "deepseek_v32": _MLA_HEADS,
    "deepseek_v4": {"mlp_layer_types": ["hash_moe", "moe"]},
    "dots3_note_text": _MLA_HEADS,
    "falcon": {"head_dim": None, "alibi": True},
    "flint": {"mlp_only_layers": [0]},
    "glm4_moe_lite": _MLA_HEADS,
    "glm_moe_dsa": _MLA_HEADS,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4},
    "gptj": {"rotary_dim": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "llama4_text": {"moe_layers": [1], "no_rope_layers": [1, 0]},
    "longcat_flash": {"num_layers": 2, "ffn_hidden_size": 32, "expert_ffn_hidden_size": 16, **_MLA_HEADS},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "minicpm3": _MLA_HEADS,
    "youtu": _MLA_HEADS,
    "zamba": _ZAMBA,
    "zamba2": {**_ZAMBA, "layers_block_type": _ZAMBA["layer_types"]},
    "zaya": {"num_experts_per_tok": 1},
}
LARGEST = 4_000_000
# Encoders, parts of models with an encoder, and such as read images or sound too; bert stands for them.
OTHERS = re.compile(
    r"bart|bert_|bert-|big_?bird|blenderbot|data2vec|electra|ernie$|marian|megatron|mvp|pegasus|prophetnet"
    r"|rembert|roberta|roc_|roformer|trocr|xlm|xlnet|xmod|reformer|whisper|musicgen|git|cpmant|camembert"
    r"|assistant|emu3|got_ocr2|moss_|phi4_multi|mllama|blt"
    r"|^(dots3_note|gemma3|gemma3n|gemma4|gemma4_unified|llama4|qwen3_5|qwen3_5_moe|qwen4_exp)$"
)
# transformers' own code of these does not run, or not with a config that says as little.
BROKEN = {"cohere_compass_text", "dbrx"}


def known_families() -> list[str]:
    """Every family that transformers, or we, can build a causal language model of, of text alone."""
    names = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *loadable.OWN} & set(CONFIG_MAPPING)
    return sorted(name for name in names - BROKEN if not OTHERS.search(name))


def fields_of(family: str) -> set[str]:
    """Names of the fields of the family's config."""
    kinds = CONFIG_MAPPING[family].__mro__
    return {name for kind in kinds for name in getattr(kind, "__annotations__", {})}


def config_of(family: str, **changes: Any) -> Any:
    """A config of `family` with the smallest sizes; what it says of itself on the way is dropped."""
    kind, names = CONFIG_MAPPING[family], fields_of(family)
    with contextlib.redirect_stderr(io.StringIO()):
        own = {name: value for name, value in FIELDS.items() if name in names}
        fields = {**TINY, **own, **OWN.get(family, {}), **changes}
        return kind(**{name: value for name, value in fields.items() if value is not None})


def make(family: str, implementation: str | None = "xtuner", **changes: Any) -> Any:
    """A random model of `family`; a test is skipped where one without a row of ours wants another config.

    Other versions of transformers have others.
    """
    try:
        config = config_of(family, **changes)
    except Exception as error:
        if family in FAMILIES:
            raise
        pytest.skip(f"{family}: {error}")
    with torch.device("meta"):
        count = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    assert count < LARGEST, f"{family} has {count} parameters"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 or "sink" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    if implementation:
        model.set_attn_implementation(implementation)
    return model
