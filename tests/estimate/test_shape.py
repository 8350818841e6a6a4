"""Counted weights are those that transformers makes."""

import pytest
import torch

from xtuner.estimate.shape import read_shape
from xtuner.model.targets import default_targets

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 6,
    "v_head_dim": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
    "num_key_value_heads": 4,
}
CASES = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "mistral": {"head_dim": 12},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 16},
    "gemma": {"head_dim": 16},
    "gemma2": {"head_dim": 16},
    "gemma3_text": {"head_dim": 16},
    "glm": {"attention_bias": True, "head_dim": 8},
    "glm4": {"attention_bias": True, "head_dim": 8},
    "phi3": {},
    "smollm3": {},
    "internlm": {"num_key_value_heads": 4},
    "internlm2": {"bias": False},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 24},
    "qwen3_moe": {**EXPERTS, "mlp_only_layers": [1]},
    "deepseek_v2": {**LATENT, "q_lora_rank": None},
    "deepseek_v3": {**LATENT, "attention_bias": True},
    "glm4_moe": {**LATENT, "kv_lora_rank": None, "head_dim": 8, "attention_bias": True},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2, "tie_word_embeddings": False},
    "llama4_text": {
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 2,
        "intermediate_size_mlp": 40,
        "head_dim": 8,
    },
    "qwen3_next": {
        **EXPERTS,
        "shared_expert_intermediate_size": 24,
        "num_hidden_layers": 4,
        "head_dim": 8,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 6,
    },
}


@pytest.mark.parametrize("family", CASES)
def test_every_weight_of_a_family_is_counted(family):
    """The same number as the model that transformers makes of the config."""
    from transformers import AutoConfig, AutoModelForCausalLM

    import xtuner.model  # noqa: F401 - makes InternLM known

    config = AutoConfig.for_model(family, **{**SIZES, **CASES[family]})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shape = read_shape({**config.to_diff_dict(), "model_type": family, **SIZES, **CASES[family]})
    assert shape.num_weights == sum(p.numel() for p in model.parameters())
    assert shape.is_exact
    targets = default_targets(model)
    names = {name.rpartition(".")[2] for name in [*targets.layers, *targets.parameters]}
    assert {linear.name for linear in shape.linears} == names


LLAMA_3_1_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}


def test_llama_3_1_8b_has_the_published_number_of_weights():
    shape = read_shape(LLAMA_3_1_8B)
    assert shape.num_weights == 8_030_261_248
    assert (shape.context, shape.dtype, shape.is_exact) == (131072, "bfloat16", True)


def test_unknown_shapes_are_not_exact():
    """Another family with the usual sizes is estimated as a Llama; without them there is no shape."""
    assert not read_shape({**LLAMA_3_1_8B, "model_type": "new"}).is_exact
    assert read_shape({"model_type": "gpt2", "n_embd": 768}) is None


def test_a_vision_language_model_is_estimated_by_its_language_part():
    shape = read_shape({"model_type": "seer", "text_config": LLAMA_3_1_8B})
    assert (shape.num_weights, shape.is_exact) == (8_030_261_248, False)
