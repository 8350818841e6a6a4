"""Forward passes on tensors that say they are on a GPU: where two devices meet, this raises, without a GPU.

It needs a CUDA build of torch: `make gpu-dry`. Backward needs a GPU even so; tests/model/test_step_on_meta.py
has it on `meta`.
"""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from torch._subclasses import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM

from tests.model.test_step_on_meta import KINDS, SIZES, items
from xtuner.dataset.collate_fns import flat_collate_fn
from xtuner.dataset.collate_fns.preference_collate_fn import preference_collate_fn
from xtuner.engine.backend import to_device
from xtuner.model import SupervisedFinetune
from xtuner.model.dpo import DPO

__all__ = ["items"]
pytestmark = [
    pytest.mark.gpu_dry,
    pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of torch"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]
DEVICE = torch.device("cuda", 0)
LORA = {"full": None, "lora": LoraConfig(r=4, target_modules="all-linear")}


@pytest.fixture(autouse=True)
def _gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    # Only a GPU has pinned memory.
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    # torch compiles FlexAttention, which does not work on fake tensors.
    monkeypatch.setattr("xtuner.model.flex.is_available", lambda: False)


def make(family):
    config = AutoConfig.for_model(family, **SIZES, **KINDS[family])
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def loss_of(model, batch):
    """The loss of a step with everything on a GPU but what waits on the host."""
    count = model.num_items(batch["data"])
    with FakeTensorMode(allow_non_fake_inputs=True):
        move(model.train())
        loss = model(to_device(batch["data"], DEVICE), num_items=count)["loss"]
    assert loss.device == DEVICE
    return loss


def move(model):
    """Give every parameter and buffer of `model` a fake one on the GPU; tied ones stay tied."""
    moved = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and id(tensor) not in moved:
                    moved[id(tensor)] = torch.empty_like(tensor, device=DEVICE)
                    if isinstance(tensor, torch.nn.Parameter):
                        moved[id(tensor)] = torch.nn.Parameter(moved[id(tensor)], tensor.requires_grad)
                tensors[name] = None if tensor is None else moved[id(tensor)]


@pytest.mark.parametrize("method", LORA)
@pytest.mark.parametrize("family", KINDS)
def test_training(family, method, items):
    model = SupervisedFinetune(make(family), lora=LORA[method], use_activation_checkpointing=False)
    loss_of(model, flat_collate_fn(items))


@pytest.mark.parametrize("way", ["selective", "full", "offload"])
def test_recomputation(way, items):
    model = SupervisedFinetune(make("llama"), lora=LORA["lora"], use_activation_checkpointing=way)
    loss_of(model, flat_collate_fn(items))


def test_pairs(items):
    model = DPO(make("llama"), lora=LORA["lora"], use_activation_checkpointing=False)
    loss_of(model, preference_collate_fn(items))


def test_a_forgotten_move_is_found(items):
    """What this file relies on."""
    model = SupervisedFinetune(make("llama"), use_activation_checkpointing=False)
    batch = flat_collate_fn(items)
    with FakeTensorMode(allow_non_fake_inputs=True):
        move(model.train().llm.model.layers[0])
        with pytest.raises(RuntimeError, match=r"two (different )?devices"):
            model(batch["data"], num_items=2)
