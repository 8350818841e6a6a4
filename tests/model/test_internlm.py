from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from xtuner.model.internlm import InternLMConfig, InternLMForCausalLM
from xtuner.model.internlm2 import InternLM2Config, InternLM2ForCausalLM
from xtuner.model.recompute import enable_recompute

REFERENCE = Path(__file__).parents[1] / "data" / "internlm2_tiny"
ROPES = {
    "plain": None,
    "linear": {"type": "linear", "factor": 2.0},
    "dynamic": {"type": "dynamic", "factor": 2.0},
}


def internlm2(sizes, **changes):
    torch.manual_seed(0)
    model = InternLM2ForCausalLM(InternLM2Config(**{**sizes, **changes})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def llama_twin(model):
    """The Llama with the same weights: q, k and v are rows of wqkv, group by group."""
    config = model.config
    twin = LlamaForCausalLM(
        LlamaConfig(**{**config.to_dict(), "attention_bias": config.bias, "model_type": "llama"})
    ).eval()
    groups = config.num_attention_heads // config.num_key_value_heads
    state = {
        "model.embed_tokens.weight": model.model.tok_embeddings.weight,
        "model.norm.weight": model.model.norm.weight,
        "lm_head.weight": model.output.weight,
    }
    for i, layer in enumerate(model.model.layers):
        at = f"model.layers.{i}."
        for kind in ("weight", "bias") if config.bias else ("weight",):
            rows = getattr(layer.attention.wqkv, kind)
            rows = rows.reshape(config.num_key_value_heads, groups + 2, config.head_dim, *rows.shape[1:])
            for x, part in (("q", rows[:, :groups]), ("k", rows[:, groups]), ("v", rows[:, groups + 1])):
                flat = part.reshape(-1, *rows.shape[3:])
                state[f"{at}self_attn.{x}_proj.{kind}"] = flat
            state[f"{at}self_attn.o_proj.{kind}"] = getattr(layer.attention.wo, kind)
        for ours, theirs in (("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")):
            state[f"{at}mlp.{theirs}.weight"] = getattr(layer.feed_forward, ours).weight
        state[f"{at}input_layernorm.weight"] = layer.attention_norm.weight
        state[f"{at}post_attention_layernorm.weight"] = layer.ffn_norm.weight
    twin.load_state_dict(state)
    return twin


def test_logits_are_those_of_the_reference_code():
    """A hub-layout checkpoint that names remote code loads natively; logits agree to 1e-5."""
    model = AutoModelForCausalLM.from_pretrained(REFERENCE, trust_remote_code=True)
    assert type(model) is InternLM2ForCausalLM
    expected = load_file(REFERENCE / "expected_logits.safetensors")
    with torch.no_grad():
        logits = model(expected["input_ids"]).logits
    assert (logits - expected["logits"]).abs().max() < 1e-5


@pytest.mark.parametrize("rope", sorted(ROPES))
@pytest.mark.parametrize(("kv_heads", "bias"), [(4, True), (2, False), (1, True)])
def test_it_equals_the_llama_with_the_same_weights(sizes, kv_heads, bias, rope):
    """Grouped heads, biases and scaled rope, within and beyond the trained length."""
    model = internlm2(
        sizes, num_key_value_heads=kv_heads, bias=bias, rope_scaling=ROPES[rope], rope_theta=1e4
    )
    twin, ids = llama_twin(model), torch.arange(100)[None] + 3
    with torch.no_grad():
        for length in (20, 100):
            torch.testing.assert_close(
                model(ids[:, :length]).logits, twin(ids[:, :length]).logits, rtol=1e-4, atol=1e-4
            )


def test_generation_with_a_cache_equals_generation_without(sizes):
    """The KV cache and padding on the left do not change the result."""
    model, ids = internlm2(sizes), torch.arange(12).view(2, 6) + 3
    wanted = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    cached = model.generate(ids, use_cache=True, **wanted)
    assert cached.tolist() == model.generate(ids, use_cache=False, **wanted).tolist()
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), ids], 1)
    mask = (padded != 0).long()
    assert model.generate(padded, attention_mask=mask, **wanted)[:, 3:].tolist() == cached.tolist()


def test_recomputation_gives_the_same_gradients(sizes):
    """Gradient checkpointing works layer by layer."""
    plain, saving, ids = internlm2(sizes).train(), internlm2(sizes).train(), torch.arange(20)[None]
    enable_recompute(saving)
    for model in (plain, saving):
        model(ids, use_cache=False).logits.square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_a_saved_folder_has_the_hubs_layout(tmp_path):
    """Weights keep the hub's names and bits; config.json keeps `rope_theta`, `rope_scaling` and `bias`."""
    import json

    AutoModelForCausalLM.from_pretrained(REFERENCE).save_pretrained(tmp_path)
    before, after = load_file(REFERENCE / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    wanted = json.loads((REFERENCE / "config.json").read_text())
    saved = json.loads((tmp_path / "config.json").read_text())
    for name in ("model_type", "bias", "rope_theta", "rope_scaling", "architectures", "num_key_value_heads"):
        assert saved[name] == wanted[name], name


@pytest.mark.parametrize("config_class", [InternLM2Config, InternLMConfig])
def test_scaled_rope_survives_a_config_round_trip(sizes, config_class, tmp_path):
    """The fields are the same after reading, writing and reading again."""
    config = config_class(**sizes, rope_theta=5e4, rope_scaling={"type": "dynamic", "factor": 3.0})
    config.save_pretrained(tmp_path)
    again = config_class.from_pretrained(tmp_path)
    for name in ("rope_type", "rope_theta", "factor"):
        assert again.rope_parameters[name] == config.rope_parameters[name]


def test_the_first_internlm_is_a_llama_with_attention_biases(sizes):
    """Hub names, biases on q, k, v and o; the same numbers as Llama's."""
    torch.manual_seed(0)
    model = InternLMForCausalLM(InternLMConfig(**{**sizes, "num_key_value_heads": 4})).eval()
    names = set(model.state_dict())
    assert {f"model.layers.0.self_attn.{x}_proj.bias" for x in "qkvo"} < names
    assert not any("mlp" in name and "bias" in name for name in names)
    twin = LlamaForCausalLM(LlamaConfig(**{**sizes, "num_key_value_heads": 4}, attention_bias=True)).eval()
    twin.load_state_dict(model.state_dict())
    ids = torch.arange(20)[None] + 3
    torch.testing.assert_close(model(ids).logits, twin(ids).logits)


def test_the_first_internlm_reads_rope_from_rotary(sizes):
    """Hub folders say `rotary={"base": ..., "type": "dynamic"}`."""
    config = InternLMConfig(**sizes, rotary={"base": 20000, "type": "dynamic"})
    assert config.rope_parameters["rope_type"] == "dynamic"
    assert config.rope_parameters["rope_theta"] == 20000
    assert config.rope_parameters["factor"] == 1.0
    plain = InternLMConfig(**sizes, rotary={"base": 20000, "type": "origin"})
    assert plain.rope_parameters["rope_type"] == "default"
