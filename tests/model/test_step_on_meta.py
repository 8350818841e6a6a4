"""A training step never waits for the device: it runs on `meta`, where no value of a tensor can be read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForCausalLM

from xtuner.dataset.collate_fns import flat_collate_fn
from xtuner.dataset.collate_fns.preference_collate_fn import preference_collate_fn
from xtuner.model import SupervisedFinetune
from xtuner.model.dpo import DPO

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

SIZES = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
KINDS = {
    "llama": {},
    "mistral": {"sliding_window": 4},
    "qwen3": {"head_dim": 16},
    "gemma2": {"sliding_window": 4, "head_dim": 16},
    "internlm2": {},
    "bloom": {"n_layer": 2, "n_head": 4},
}


def on_meta(family):
    """A small model without values."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES, **KINDS[family]))


@pytest.fixture(autouse=True)
def transformers_does_not_ask(monkeypatch):
    """Leave out the one wait that is not ours: transformers reads if positions restart."""
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda position_ids: None)


@pytest.fixture
def items():
    """Two packs: samples of 9, 5 and 3 tokens, and of 7."""
    packs = []
    for boundaries in ([0, 9, 14], [0, 3, 10]):
        ids = np.arange(3, 3 + boundaries[-1])
        labels = ids.copy()
        labels[:2] = -100
        packs.append({"input_ids": ids, "labels": labels, "cumulative_len": boundaries})
    return packs


def step(model, data):
    """Forward and backward; returns the parameters with a gradient."""
    data = {n: v.to("meta") if isinstance(v, torch.Tensor) else v for n, v in data.items()}
    outputs = model.train()(data, num_items=model.num_items(data))
    outputs["loss"].backward()
    assert outputs["loss"].is_meta
    return [name for name, parameter in model.named_parameters() if parameter.grad is not None]


def test_meta_refuses_to_tell_values():
    """What this file relies on."""
    tensor = torch.zeros(3, device="meta")
    for read in (tensor.tolist, tensor.nonzero, tensor.sum().item, lambda: bool(tensor.sum() > 0)):
        with pytest.raises((RuntimeError, NotImplementedError)):
            read()


@pytest.mark.parametrize("lora", [None, LoraConfig(r=4, target_modules="all-linear")], ids=["full", "lora"])
@pytest.mark.parametrize("family", KINDS)
def test_supervised_fine_tuning(family, lora, items):
    model = SupervisedFinetune(on_meta(family), lora=lora, use_activation_checkpointing=False)
    assert step(model, flat_collate_fn(items)["data"])


def test_recomputation(items):
    model = SupervisedFinetune(on_meta("llama"), use_activation_checkpointing=True)
    assert step(model, flat_collate_fn(items)["data"])


def test_preferences(items):
    model = DPO(on_meta("llama"), lora=LoraConfig(r=4), use_activation_checkpointing=False)
    assert step(model, preference_collate_fn(items)["data"])
