"""Recomputation changes only the memory."""

import copy

import pytest
import torch

from tests.families.configs import make_model
from xtuner import log
from xtuner.blocks import RECOMPUTE
from xtuner.errors import ConfigError
from xtuner.model import SupervisedFinetune
from xtuner.model.host_embedding import HostEmbedding
from xtuner.model.recompute import recomputes


def loss_and_gradients(llama, batch, way, **lora_settings):
    from peft import LoraConfig

    torch.manual_seed(1)
    settings = {"lora_dropout": 0.1, "target_modules": "all-linear", **lora_settings}
    lora = LoraConfig(r=4, task_type="CAUSAL_LM", init_lora_weights=False, **settings)
    model = SupervisedFinetune(copy.deepcopy(llama), lora=lora, use_activation_checkpointing=way).train()
    torch.manual_seed(2)
    loss = model(batch)["loss"]
    loss.backward()
    return model, loss.item(), [p.grad for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize(("way", "share"), [("selective", 0.5), ("full", 1.0), (True, 1.0), ("offload", 1.0)])
def test_gradients_are_those_without_recomputation(llama, batch, way, share):
    """To the last bit, dropout included."""
    _, loss, gradients = loss_and_gradients(llama, batch, False)
    model, again, others = loss_and_gradients(llama, batch, way)
    assert loss == again
    assert all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True))
    assert recomputes(model.llm) == share


@pytest.mark.parametrize("way", ["selective", "full", "offload"])
def test_layers_that_cannot_recompute_keep_all_which_is_logged(way, caplog, monkeypatch):
    """A family without recomputation trains, for any setting of the config or estimate."""
    monkeypatch.setattr(log, "_said", set())
    model = SupervisedFinetune(make_model("jetmoe"), use_activation_checkpointing=way)
    assert (model.recompute, recomputes(model.llm)) == ("none", 0)
    assert f"use_activation_checkpointing={way!r}: models of the family 'jetmoe' cannot" in caplog.text


def test_tiles_change_only_rounding(llama, batch, monkeypatch):
    """With offload, MLPs read few rows at a time; a batch of one tile is computed as without."""
    from xtuner.model import recompute

    torch.manual_seed(0)
    monkeypatch.setattr(recompute, "TILE", 3)
    lora = {"lora_dropout": 0.0}
    _, loss, gradients = loss_and_gradients(llama, batch, "none", **lora)
    model, again, others = loss_and_gradients(llama, batch, "offload", **lora)
    assert {m.tile_rows for m in model.modules() if hasattr(m, "tile_rows")} == {3}
    assert loss == pytest.approx(again, rel=1e-6)
    for ours, theirs in zip(others, gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("way", RECOMPUTE)
def test_a_frozen_embedding_has_no_gradient_and_waits_on_the_host(llama, batch, way):
    """Whatever is recomputed, no gradient goes beyond the first layer."""
    model, *_ = loss_and_gradients(llama, batch, way)
    embedding = model.llm.get_input_embeddings()
    assert isinstance(embedding, HostEmbedding) == (way == "offload")
    assert not embedding(batch["input_ids"]).requires_grad


def test_only_layer_inputs_are_kept(llama, batch):
    """With offload these pass the hooks that move them to the host."""
    sizes = {}
    for way in RECOMPUTE:
        seen = {}

        def pack(value, seen=seen):
            seen[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return value

        model = SupervisedFinetune(copy.deepcopy(llama), use_activation_checkpointing=way).train()
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            loss = model(batch)["loss"]
            sizes[way] = sum(size for place, size in seen.items() if place not in own)
        assert loss.requires_grad
    assert sizes["none"] > sizes["selective"] > sizes["full"] > sizes["offload"]


def test_the_default_is_what_fits(llama, monkeypatch):
    from xtuner.model import recompute

    monkeypatch.setattr(recompute, "free_memory", lambda device: 10**12)
    assert SupervisedFinetune(llama).recompute == "none"
    monkeypatch.setattr(recompute, "free_memory", lambda device: 1000)
    assert SupervisedFinetune(llama, use_activation_checkpointing="auto").recompute == "full"


def test_the_error_of_an_invalid_value_lists_the_choices(llama):
    with pytest.raises(ConfigError, match=r"use_activation_checkpointing is 'half'; write True \(all"):
        SupervisedFinetune(llama, use_activation_checkpointing="half")
