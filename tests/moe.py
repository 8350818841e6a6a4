"""Small models of families with experts, or with layers whose weights kernels read."""

from __future__ import annotations

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, Gemma3Config

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
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {
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
MAMBA = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
    "mamba_d_conv": 4,
    "mamba_chunk_size": 8,
    "mamba_expand": 2,
}
DELTA = {
    **EXPERTS,
    "shared_expert_intermediate_size": 16,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "num_hidden_layers": 4,
}
STATE = {"state_size": 8, "expand": 2, "time_step_rank": 4}
OWN: dict[str, dict] = {
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "ernie4_5_moe": {
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_intermediate_size": 16,
        "moe_layer_end_index": 1,
        "moe_num_shared_experts": 1,
    },
    "glm4_moe": {**LATENT, "num_key_value_heads": 2},
    "gpt_oss": EXPERTS,
    "granitemoe": EXPERTS,
    "granitemoehybrid": {
        **EXPERTS,
        **MAMBA,
        "shared_intermediate_size": 16,
        "layer_types": ["mamba", "attention"],
    },
    "hunyuan_v1_moe": {**EXPERTS, "moe_topk": 2, "num_shared_expert": 1},
    "jamba": {
        **EXPERTS,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    "jetmoe": {**EXPERTS, "kv_channels": 8},
    "lfm2_moe": {**EXPERTS, "num_dense_layers": 1, "layer_types": ["conv", "full_attention"]},
    "llama4_text": {
        **EXPERTS,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 2,
        "intermediate_size_mlp": 32,
    },
    "longcat_flash": {
        **LATENT,
        "moe_topk": 2,
        "zero_expert_num": 2,
        "num_layers": 2,
        "ffn_hidden_size": 32,
        "expert_ffn_hidden_size": 16,
    },
    "mixtral": EXPERTS,
    "nemotron_h": {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "moe_shared_expert_intermediate_size": 16,
        "n_group": 2,
        "topk_group": 1,
        "n_shared_experts": 1,
        "layers_block_type": ["mamba", "moe", "attention", "mlp"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "ssm_state_size": 8,
        "n_groups": 1,
        "chunk_size": 8,
        "num_hidden_layers": 4,
    },
    "olmoe": EXPERTS,
    "phimoe": EXPERTS,
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3_moe": EXPERTS,
    "qwen3_next": DELTA,
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 64},
    "falcon_mamba": STATE,
    "mamba": STATE,
    "mamba2": {
        "num_heads": 4,
        "head_dim": 16,
        "state_size": 8,
        "n_groups": 1,
        "chunk_size": 8,
        "expand": 2,
    },
    "zamba2": {
        "mamba_d_state": 8,
        "mamba_ngroups": 1,
        "n_mamba_heads": 4,
        "mamba_headdim": 16,
        "chunk_size": 8,
        "layers_block_type": ["mamba", "hybrid"],
        "num_mem_blocks": 1,
        "adapter_rank": 4,
        "hybrid_layer_ids": [1],
        "attention_head_dim": 16,
    },
}


def make(family, dtype=torch.float32, **changes):
    """A model of the family with every matrix random; in float64 its experts run one after the other."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**{**TINY, **OWN[family], **changes}))
    if dtype == torch.float64:  # torch's product of groups does not know it
        model.set_experts_implementation("eager")
    return randomise(model.to(dtype))


def make_gemma3():
    """A Gemma 3 that sees, as all from 4B on."""
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 4,
    }
    text = {**TINY, "sliding_window": 8}
    torch.manual_seed(0)
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    return randomise(AutoModelForCausalLM.from_config(config))


def randomise(model, std=0.3):
    """`model` with all matrices that are trained random: adapters start as nothing."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=std)
    return model


def ids(length=24):
    """One row of tokens."""
    return torch.randint(3, 64, (1, length), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def logits(model):
    """What `model` says to that row."""
    return model.eval()(input_ids=ids(), use_cache=False).logits
