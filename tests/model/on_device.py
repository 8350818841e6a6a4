"""A program: training steps on fake tensors of an accelerator, by the facts of each kind that it is given.

Where two devices meet in an operation, this raises. The device is one that torch lets Python register, and so
needs no build for it; torch allows one in a process and never takes it back.
"""

from __future__ import annotations

import os
import sys
import warnings

import torch
from peft import LoraConfig
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils import backend_registration
from transformers import AutoConfig, AutoModelForCausalLM, masking_utils

from tests.model.test_step_on_meta import KINDS, SIZES, two_packs
from xtuner import devices, dist
from xtuner.dataset.collate_fns import flat_collate_fn
from xtuner.engine.backend import to_device
from xtuner.model import SupervisedFinetune
from xtuner.model.host_embedding import HostEmbedding

NAME = "npu"
LORA = {"full": None, "lora": LoraConfig(r=4, target_modules="all-linear")}
# A window and soft caps, packed weights, each sample by itself.
STEPS = (
    "llama full none",
    "gemma2 lora selective",
    "internlm2 lora full",
    "bloom lora none",
    "llama lora offload",
)
real_from_numpy = torch.from_numpy


class Module(getattr(backend_registration, "_DummyBackendModule", object)):  # type: ignore[misc]
    """What stands as `torch.npu`."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


def main(kinds: list[str]) -> None:
    """Print a line for each kind and step."""
    warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
    backend_registration._setup_privateuseone_for_python_backend(NAME, Module())
    facts = {kind: devices.KINDS[kind] for kind in kinds}
    # A device that exists has pinned memory. transformers reads if positions restart.
    torch.Tensor.pin_memory = lambda tensor: tensor  # type: ignore[assignment,method-assign]
    masking_utils.find_packed_sequence_indices = lambda position_ids: None  # type: ignore[assignment]
    # Without values: torch keeps those of small fake tensors, and moves them for real.
    torch.from_numpy = lambda array: torch.empty(array.shape, dtype=real_from_numpy(array).dtype)
    for kind in kinds:
        devices.KINDS[NAME] = facts[kind]
        for step in STEPS:
            print(kind, end=" ")
            walk(*step.split())


def walk(family: str, method: str, way: str) -> None:
    """Forward and backward of a small model; what the host plans comes from there."""
    device = dist.device()
    config = AutoConfig.for_model(family, **SIZES, **KINDS[family])
    llm = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = SupervisedFinetune(llm, lora=LORA[method], use_activation_checkpointing=way)
    data = flat_collate_fn(two_packs())["data"]
    count = model.num_items(data)
    with FakeTensorMode(allow_non_fake_inputs=True):
        move(model.train(), device)
        data = {name: torch.empty_like(x) if isinstance(x, Tensor) else x for name, x in data.items()}
        loss = model(to_device(data, device), num_items=count)["loss"]
        loss.backward()
    found = {loss.device, *(p.grad.device for p in model.parameters() if p.grad is not None)}
    on_host = isinstance(llm.get_input_embeddings(), HostEmbedding)
    print(family, method, way, *map(str, found), "and host" if on_host else "", file=sys.stdout)


def move(model: torch.nn.Module, device: torch.device) -> None:
    """Give every parameter and buffer of `model` a fake one on `device`; tied ones stay tied."""
    moved: dict[int, Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in moved:
                    fake = torch.empty_like(tensor, device=device)
                    if isinstance(tensor, torch.nn.Parameter):
                        fake = torch.nn.Parameter(fake, tensor.requires_grad)
                    moved[id(tensor)] = fake
                tensors[name] = moved[id(tensor)]


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.stdout.flush()
    # torch's threads for a device that Python has registered may abort the end of the process.
    os._exit(0)
