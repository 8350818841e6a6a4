"""One table of tiny models: every family of text models that transformers builds from a small config.

    make_config("mistral")                  4 heads, 2 layers, a window of 4
    make_config("mistral", vocab_size=64)   with another vocabulary
    make_model(config)                      random weights, no norm at its neutral value

A family is the `model_type` of config.json. Layers of each kind that a family has are among the two or four;
windows, chunks and the like end after four tokens.
Models that see or hear are those of tests/seeing.py.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import CONFIG_MAPPING

from tests import seeing
from xtuner.model.loading import auto_class_of, register_families

ABSENT = object()  # a setting of TINY that the family does not take
TINY = {
    "vocab_size": 448,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MOE = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
}
SHARED = {**MOE, "n_shared_experts": 1, "num_shared_experts": 1, "shared_expert_intermediate_size": 64}
MLA = {
    **SHARED,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "qk_head_dim": 32,
    "v_head_dim": 16,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
}
# Attention that looks at the best few keys of an index.
INDEXED = {**MLA, "index_topk": 4, "index_head_dim": 32, "index_n_heads": 2}
WINDOW = {"sliding_window": 4}
BOTH = {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_d_ssm": 128,
    "mamba_chunk_size": 4,
    "mamba_dt_rank": 8,
}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "shared_expert_intermediate_size": 64,
}
INKLING = {
    **SHARED,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 16,
    "sliding_window_size": 4,
    "rel_extent": 16,
    "layer_types": ["hybrid_sliding", "hybrid"],
}
GPT2 = {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 512}
CODEGEN = {**GPT2, "n_ctx": 512, "rotary_dim": 8}
OWN: dict[str, dict[str, Any]] = {
    "afmoe": {**SHARED, **BOTH},
    "apertus": {},
    "arcee": {},
    "aria_text": {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1},
    "axk1": MLA,
    "axk2": INDEXED,
    "bailing_hybrid": {
        **MLA,
        **LINEAR,
        "linear_head_dim": 16,
        "linear_num_heads": 4,
        "num_expert_group": 2,
        "num_experts_per_token": 2,
    },
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "biogpt": {},
    "bitnet": {},
    "bloom": {"n_layer": 2, "n_head": 4},
    "codegen": CODEGEN,
    "cohere": {},
    "cohere2": BOTH,
    "cohere2_moe": {**SHARED, **BOTH},
    "cohere_compass_text": {
        **BOTH,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
    "ctrl": {"n_embd": 64, "dff": 64, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "cwm": BOTH,
    "dbrx": {
        "d_model": 64,
        "n_heads": 4,
        "n_layers": 2,
        "max_seq_len": 512,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 64, "ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": MLA,
    "deepseek_v3": MLA,
    "deepseek_v32": INDEXED,
    "deepseek_v4": {
        **INDEXED,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "q_lora_rank": 32,
        "o_lora_rank": 32,
        "o_groups": 2,
        "layer_types": ["compressed_sparse_attention", "heavily_compressed_attention"],
        "mlp_layer_types": ["hash_moe", "moe"],
        "hc_mult": 2,
    },
    "diffllama": {},
    "doge": {},
    "dots1": SHARED,
    "dots3_note_text": {
        **INDEXED,
        **WINDOW,
        "head_dim": 32,
        "layer_types": ["indexed_attention", "sliding_attention"],
        "per_layer_config": {},
        "shared_experts_intermediate_size": 64,
    },
    "ernie4_5": {},
    "ernie4_5_moe": {
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_intermediate_size": 64,
        "moe_num_shared_experts": 1,
    },
    "exaone4": BOTH,
    "exaone_moe": {**SHARED, **BOTH, "first_k_dense_replace": 1},
    "falcon": {"head_dim": ABSENT, "num_kv_heads": 1},
    "falcon_h1": MAMBA,
    "falcon_mamba": {"state_size": 8, "time_step_rank": 4},
    "flex_olmo": MOE,
    "flint": {**SHARED, **BOTH, "mlp_only_layers": [0]},
    "gemma": {},
    "gemma2": BOTH,
    "gemma3_text": BOTH,
    "gemma3n_text": {
        **WINDOW,
        "num_kv_shared_layers": 2,
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 448,
        "laurel_rank": 8,
        "activation_sparsity_pattern": [0.5, 0.0, 0.5, 0.0],
    },
    "gemma4_text": {
        **BOTH,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 448,
        "global_head_dim": 32,
        "num_global_key_value_heads": 2,
    },
    "gemma4_unified_text": {**BOTH, "global_head_dim": 32, "num_global_key_value_heads": 2},
    "glm": {},
    "glm4": {},
    "glm4_moe": {**SHARED, "first_k_dense_replace": 1},
    "glm4_moe_lite": MLA,
    "glm_moe_dsa": INDEXED,
    "gpt2": GPT2,
    "gpt_bigcode": GPT2,
    "gpt_neo": {
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 4,
    },
    "gpt_neox": {},
    "gpt_neox_japanese": {},
    "gpt_oss": {**MOE, **BOTH},
    "gptj": CODEGEN,
    "granite": {},
    "granite_swa": BOTH,
    "granitemoe": MOE,
    "granitemoe_swa": {**MOE, **BOTH},
    "granitemoehybrid": {
        **MOE,
        **MAMBA,
        "layer_types": ["mamba", "attention"],
        "shared_intermediate_size": 64,
    },
    "granitemoeshared": {**MOE, "shared_intermediate_size": 64},
    "helium": {},
    "hrm_text": {"num_hidden_layers": 1},
    "hunyuan_v1_dense": {},
    "hunyuan_v1_moe": {"num_experts": 4, "moe_topk": 2},
    "hy_v3": {**SHARED, "first_k_dense_replace": 1},
    "hy_v4": INDEXED,
    "hyperclovax": {},
    "inkling2_text": INKLING,
    "inkling_text": INKLING,
    "internlm": {},
    "internlm2": {},
    "internlm3": {},
    "iquestcoder": {},
    "jais2": {},
    "jamba": {
        **MOE,
        **MAMBA,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    "jetmoe": {"kv_channels": 16, "num_local_experts": 4},
    "kimi_linear": {
        **MLA,
        **LINEAR,
        "linear_head_dim": 16,
        "linear_num_heads": 4,
        "q_lora_rank": None,
        "num_expert_group": 2,
        "num_experts_per_token": 2,
    },
    "kolibri1": {**SHARED, **BOTH},
    "laguna": {**SHARED, **BOTH},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {**MOE, "layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lfm3": {"layer_types": ["conv", "full_attention"], **WINDOW},
    "llama": {},
    "llama4_text": {
        **MOE,
        "intermediate_size_mlp": 64,
        "layer_types": ["chunked_attention", "full_attention"],
        "no_rope_layers": [1, 0],
        "moe_layers": [1],
        "attention_chunk_size": 4,
    },
    "longcat_flash": {
        **MLA,
        "num_layers": 2,
        "moe_topk": 2,
        "zero_expert_num": 2,
        "expert_ffn_hidden_size": 64,
        "ffn_hidden_size": 64,
    },
    "mamba": {"state_size": 8, "time_step_rank": 4},
    "mamba2": {"num_heads": 8, "head_dim": 16, "state_size": 8, "n_groups": 2, "chunk_size": 4},
    "mellum": {**MOE, **BOTH},
    "mimo_v2_flash": {**SHARED, **BOTH, "v_head_dim": 16},
    "minicpm3": {**MLA, "dim_model_base": 32},
    "minimax": {**MOE, "layer_types": ["linear_attention", "full_attention"], "block_size": 8},
    "minimax_m2": MOE,
    "minimax_m3_vl_text": {
        **SHARED,
        "dense_intermediate_size": 64,
        "shared_intermediate_size": 64,
        "rotary_dim": 8,
        "index_head_dim": 16,
    },
    "ministral": BOTH,
    "ministral3": {},
    "mistral": WINDOW,
    "mixtral": {**MOE, **WINDOW},
    "modernbert-decoder": {},
    "mpt": {"n_layers": 2, "n_heads": 4, "d_model": 64},
    "nanochat": {},
    "nemotron": {},
    "nemotron_h": {
        **MAMBA,
        **SHARED,
        "layers_block_type": ["mamba", "moe", "attention", "mlp"],
        "num_hidden_layers": 4,
        "ssm_state_size": 8,
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "n_groups": 2,
        "chunk_size": 4,
        "moe_shared_expert_intermediate_size": 64,
    },
    "olmo": {},
    "olmo2": {},
    "olmo3": BOTH,
    "olmo_hybrid": LINEAR,
    "olmoe": MOE,
    "openai-gpt": GPT2,
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 64},
    "persimmon": {},
    "phi": {},
    "phi3": WINDOW,
    "phimoe": MOE,
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "qwen2_moe": SHARED,
    "qwen3": {},
    "qwen3_5_moe_text": {**MOE, **LINEAR},
    "qwen3_5_text": LINEAR,
    "qwen3_moe": {**MOE, "norm_topk_prob": True},
    "qwen3_next": {**MOE, **LINEAR},
    "qwen4_exp_text": {
        **MOE,
        **LINEAR,
        "ple_embed_dim": 16,
        "hc_count": 2,
        "hc_lowrank": 8,
        "ngram_vocab_size_base": 100,
        "heads_per_ngram": 2,
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 4,
        "indexer_compress_ratio": 4,
    },
    "recurrent_gemma": {
        "lru_width": 64,
        "attention_window_size": 4,
        "block_types": ["recurrent", "attention"],
    },
    "rwkv": {},
    "seed_oss": {},
    "smollm3": {},
    "solar_open": SHARED,
    "stablelm": {},
    "starcoder2": WINDOW,
    "vaultgemma": BOTH,
    "xglm": {"d_model": 64, "ffn_dim": 64, "num_layers": 2, "attention_heads": 4},
    "xlstm": {"head_dim": ABSENT, "num_heads": 4, "num_blocks": 2, "chunk_size": 4},
    "youtu": {**MLA, "head_dim": ABSENT},
    "zamba": {
        **MAMBA,
        "num_hidden_layers": 4,
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "n_mamba_heads": 2,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
    },
    "zamba2": {
        **MAMBA,
        "num_hidden_layers": 4,
        "mamba_ngroups": 2,
        "n_mamba_heads": 8,
        "mamba_headdim": 16,
        "chunk_size": 4,
        "attention_head_dim": 32,
        "attention_hidden_size": 128,
        "num_mem_blocks": 1,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "adapter_rank": 8,
    },
    "zaya": {**MOE, "num_experts_per_tok": 1, "router_hidden_size": 16},
}

SEEING: dict[str, Any] = {
    **seeing.FAMILIES,
    "gemma4": (
        OWN["gemma4_text"],
        {"num_heads": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16},
        {"audio_config": None},
    ),
    "minicpm_ocr": (LINEAR, {}, {"insert_layer_id": 0}),
    "minicpmv4_6": (LINEAR, {}, {"insert_layer_id": 0}),
    "minicpmv4_7": (LINEAR, {}, {"insert_layer_id": 0}),
    "ovis2": ({"model_type": "qwen2"}, {"vocab_size": 64}, {"hidden_size": 32, "vocab_size": 448}),
    "qwen3_5": (LINEAR, seeing.DEEPSTACK, {}),
    "qwen3_5_moe": ({**MOE, **LINEAR}, seeing.DEEPSTACK, {}),
}
FAMILIES = sorted([*OWN, *SEEING])

register_families()
# Those of text alone that this version of transformers has, or we.
OF_TEXT = sorted(OWN.keys() & CONFIG_MAPPING.keys())


def in_slice() -> list[str]:
    """The families of this run: all, or with FAMILIES_SLICE=2/6 the second of six parts."""
    part, _, parts = os.environ.get("FAMILIES_SLICE", "1/1").partition("/")
    return FAMILIES[int(part) - 1 :: int(parts)]


def make_config(family: str, **changes: Any) -> Any:
    """The tiny config of `family` with `changes`; nothing in it is random while it trains."""
    if family in SEEING:
        config = seeing.config_of(family, SEEING[family])
    else:
        settings = {**TINY, **OWN[family], **changes}
        config = CONFIG_MAPPING[family](**{k: v for k, v in settings.items() if v is not ABSENT})
    for part in {id(c): c for c in (config, config.get_text_config())}.values():
        for name, value in part.to_dict().items():
            if isinstance(value, float) and ("drop" in name or "jitter" in name) and name not in changes:
                setattr(part, name, 0.0)
    return config


def make_model(family: str, std: float = 0.1, **changes: Any) -> Any:
    """A random model of `family` whose norms and biases are not at their neutral values."""
    torch.manual_seed(0)
    config = make_config(family, **changes)
    model = auto_class_of(config, family).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=std)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=std)
    return model


def make(family: str, implementation: str | None = "xtuner", **changes: Any) -> Any:
    """A random model of `family` for rows of some twenty tokens, with our attention or that named."""
    model = make_model(family, std=0.3, **{"vocab_size": 64, "max_position_embeddings": 64, **changes})
    if implementation:
        model.set_attn_implementation(implementation)
    return model


def fields_of(family: str) -> set[str]:
    """Names of the fields of the family's config."""
    kinds = CONFIG_MAPPING[family].__mro__
    return {name for kind in kinds for name in getattr(kind, "__annotations__", {})}
