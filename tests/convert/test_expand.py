"""A model with more layers answers as before, to the bit, and trains only these."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from xtuner.convert.expand import expand
from xtuner.errors import ConfigError, ModelError
from xtuner.model import SupervisedFinetune

IDS = torch.arange(3, 35).unsqueeze(0)
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
FAMILIES = {"qwen3": (Qwen3Config, Qwen3ForCausalLM), "gemma2": (Gemma2Config, Gemma2ForCausalLM)}


@torch.no_grad()
def logits(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()(input_ids=IDS, use_cache=False).logits


@pytest.fixture
def base(tmp_path):
    def make(family):
        torch.manual_seed(0)
        config, model = FAMILIES[family]
        model(config(**SIZES)).save_pretrained(tmp_path / "base")
        return tmp_path / "base"

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_the_expanded_model_gives_the_logits_of_the_base_to_the_bit(family, base, tmp_path):
    folder = base(family)
    assert expand(folder, tmp_path / "more", 2) == [2, 5]
    config = json.loads((tmp_path / "more/config.json").read_text())
    assert (config["num_hidden_layers"], config["xtuner_added_layers"]) == (6, [2, 5])
    kinds = json.loads((folder / "config.json").read_text())["layer_types"]
    assert config["layer_types"] == [kinds[n] for n in (0, 1, 1, 2, 3, 3)]
    assert torch.equal(logits(tmp_path / "more"), logits(folder))


def test_only_the_new_layers_train(base, tmp_path):
    """Another's weights stay; the new ones leave zero; the trained model loads in plain transformers."""
    expand(base("qwen3"), tmp_path / "more", 2)
    llm = AutoModelForCausalLM.from_pretrained(tmp_path / "more", dtype=torch.float32)
    model = SupervisedFinetune(llm=llm, trained_layers="added").train()
    before = {n: p.detach().clone() for n, p in model.llm.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    batch = {"input_ids": IDS, "labels": IDS, "position_ids": torch.arange(32)[None]}
    for _ in range(2):
        model({**batch, "cumulative_len": [torch.tensor([0, 32], dtype=torch.int32)]})["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {n for n, p in model.llm.named_parameters() if not torch.equal(p, before[n])}
    assert {n.split(".")[2] for n in changed} == {"2", "5"}
    assert "model.layers.2.mlp.down_proj.weight" in changed
    model.llm.save_pretrained(tmp_path / "trained")
    with torch.no_grad():
        expected = model.eval().llm(input_ids=IDS, use_cache=False).logits
    assert torch.allclose(logits(tmp_path / "trained"), expected, atol=1e-5)


def test_blocks_divide_the_layers(base, tmp_path):
    with pytest.raises(ConfigError, match="--blocks is 3; it must divide the 4 layers"):
        expand(base("qwen3"), tmp_path / "more", 3)


def test_a_family_with_other_names_is_refused(saved, tmp_path):
    with pytest.raises(ModelError, match="do not end in o_proj and down_proj"):
        expand(saved("gpt2", n_layer=2), tmp_path / "more", 1)
    assert not (tmp_path / "more").exists()
