"""Counted weights are those that transformers makes."""

import pytest
import torch

from xtuner.estimate.shape import read_shape

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
    "qwen3_moe": EXPERTS,
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
    names = {n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    if "experts" not in str(CASES[family]):
        assert {linear.name for linear in shape.linears} == names - {"lm_head", "output"}


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


def test_what_is_not_known_is_said():
    """Another family with the usual sizes is reckoned as a Llama; without them there is no shape."""
    assert not read_shape({**LLAMA_3_1_8B, "model_type": "new"}).is_exact
    assert read_shape({"model_type": "gpt2", "n_embd": 768}) is None


def test_a_model_that_sees_is_reckoned_by_its_language_part():
    shape = read_shape({"model_type": "seer", "text_config": LLAMA_3_1_8B})
    assert (shape.num_weights, shape.is_exact) == (8_030_261_248, False)
