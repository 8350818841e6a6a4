"""Accelerators: what torch says of the one here, and what differs between their kinds.

    torch's name   device                    processes talk by   memory       16 bits
    cuda           NVIDIA, AMD with ROCm     nccl                its own      bf16 where the card has it, fp16
    xpu            Intel                     xccl                its own      bf16, fp16
    npu            Ascend, with torch_npu    hccl                its own      bf16 where the card has it, fp16
    mps            Apple                     one process alone   the host's   bf16 from macOS 14 on, fp16

Code that needs more than an accelerator (compute capabilities, FlashAttention, Triton) names `cuda` itself;
tests/api/test_devices.py has the reason of each such file. docs/devices.md says what has been run.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xtuner.errors import ConfigError
from xtuner.language import translate

if TYPE_CHECKING:
    import torch

# torch's name for NVIDIA's cards, and for AMD's. The numbers of the estimates are those of NVIDIA's.
NVIDIA = "cuda"
_VARIABLE = "XTUNER_DEVICE"


@dataclass(frozen=True)
class Kind:
    """What is known of a kind of device; the defaults are for kinds that are not in KINDS."""

    name: str
    collectives: str | None = None  # backend of process groups; None: a single process
    has_own_memory: bool = True  # not the host's
    # Whether copies may go on while the host does. Those to mps read memory that was freed meanwhile
    # (pytorch's issues 139550 and 189690).
    copies_behind: bool = False
    takes_threads: bool = False  # on mps two threads end the process (pytorch's issue 197805)
    # torch's optimizers in one kernel that applies `grad_scale`. Those for mps ignore it (pytorch's pull
    # request 186360).
    fused_optimizers: tuple[str, ...] = ()
    draws_integers: bool = False  # its generator fills integers of 64 bits
    many_devices: bool = True  # the layers of a model may lie on several
    # The lowest versions of packages with layers in 4 and 8 bits, by the documentation of bitsandbytes; None:
    # it documents none.
    for_bits: Mapping[str, str] | None = None
    has_8bit_optimizers: bool = False
    holds_scores: bool = False  # torch's attention keeps the scores of a sample for backward


_ADAM = ("Adam", "AdamW")
KINDS = {
    "cpu": Kind(
        "CPU",
        collectives="gloo",
        has_own_memory=False,
        takes_threads=True,
        fused_optimizers=(*_ADAM, "SGD", "Adagrad"),
        many_devices=False,
        for_bits={},
        has_8bit_optimizers=True,
    ),
    "cuda": Kind(
        "GPU",
        collectives="nccl",
        copies_behind=True,
        takes_threads=True,
        fused_optimizers=(*_ADAM, "SGD"),
        draws_integers=True,
        for_bits={},
        has_8bit_optimizers=True,
    ),
    "xpu": Kind(
        "Intel GPU",
        collectives="xccl",
        copies_behind=True,
        takes_threads=True,
        fused_optimizers=_ADAM,
        for_bits={},
        has_8bit_optimizers=True,
    ),
    "npu": Kind("Ascend NPU", collectives="hccl", copies_behind=True, takes_threads=True),
    "mps": Kind(
        "Apple GPU",
        has_own_memory=False,
        many_devices=False,
        for_bits={"bitsandbytes": "0.50", "torch": "2.9"},
        holds_scores=True,
    ),
}


# Where no numbers are computed, only work counted, as on a GPU.
_ON_PAPER = Kind("meta", copies_behind=True, draws_integers=True)


def kind_of(device: torch.device | str) -> Kind:
    """What is known of the kind of `device`, a torch device or its type."""
    name = device if isinstance(device, str) else device.type
    return _ON_PAPER if name == "meta" else KINDS.get(name, Kind(name))


def pins_memory(device: torch.device) -> bool:
    """Whether page-locked memory of the host serves copies to and from `device`."""
    return is_accelerator(device) and kind_of(device).copies_behind


def is_accelerator(device: torch.device) -> bool:
    """Whether tensors on `device` lie on an accelerator."""
    return device.type not in ("cpu", "meta")


def accelerator() -> str | None:
    """torch's name of the accelerator that is here; None without one, or with XTUNER_DEVICE=cpu."""
    import torch

    found = None
    if torch.accelerator.is_available():
        current = torch.accelerator.current_accelerator()
        assert current is not None
        found = current.type
    asked = os.environ.get(_VARIABLE)
    if asked and asked not in ("cpu", found):
        raise ConfigError(
            translate(
                "{variable} is {asked!r}, and torch finds {found} here: set it to cpu, or remove it",
                variable=_VARIABLE,
                asked=asked,
                found=found or "cpu",
            )
        )
    return None if is_left_alone() else found


def is_left_alone() -> bool:
    """Whether the user wants the CPU, whatever there is."""
    return os.environ.get(_VARIABLE) == "cpu"


def may_have_accelerator() -> bool:
    """Whether torch may find another accelerator than NVIDIA's here; torch itself takes seconds to say."""
    if is_left_alone():
        return False
    try:
        build = importlib.metadata.version("torch").partition("+")[2]
    except importlib.metadata.PackageNotFoundError:
        return False
    return is_built_for_accelerator(
        platform.system(), platform.machine(), build, importlib.util.find_spec("torch_npu") is not None
    )


def is_built_for_accelerator(system: str, machine: str, build: str, has_npu: bool) -> bool:
    """Whether torch of that build (rocm6.4, xpu, cpu, ...) works with another accelerator than NVIDIA's."""
    return has_npu or (system, machine) == ("Darwin", "arm64") or build.startswith(("rocm", "xpu"))


def _module(device: torch.device) -> Any:
    import torch

    return torch.get_device_module(device)


def use(device: torch.device) -> None:
    """Make `device` this process's current one."""
    if kind_of(device).many_devices:
        _module(device).set_device(device)


def name_of(device: torch.device) -> str:
    """What the device calls itself."""
    find = getattr(_module(device), "get_device_name", None)
    return find(device) if find else kind_of(device).name


def computes_in_bf16(device: torch.device, emulated: bool = False) -> bool:
    """Whether the accelerator multiplies in bf16, `emulated` or not; only CUDA tells the two apart."""
    import torch

    if device.type == "mps":
        return torch.backends.mps.is_macos_or_newer(14, 0)
    supports = getattr(_module(device), "is_bf16_supported", None)
    if supports is None:
        return False
    return supports(including_emulation=emulated) if device.type == "cuda" else supports()


def has_fp64(device: torch.device) -> bool:
    """Whether the device has numbers of 64 bits; mps and Intel's Arc A cards do not."""
    if device.type == "xpu":
        return bool(_module(device).get_device_properties(device).has_fp64)
    return device.type != "mps"


def memory_of(device: torch.device) -> tuple[int, int]:
    """Free and total bytes of the accelerator; on mps, of what the system lets it use."""
    module = _module(device)
    if device.type == "mps":
        total = module.recommended_max_memory()
        return max(0, total - module.driver_allocated_memory()), total
    return module.mem_get_info(device)


def peak_memory(device: torch.device) -> int:
    """The most bytes that tensors have taken so far; on mps, where no one counts, what torch holds."""
    module = _module(device)
    return module.driver_allocated_memory() if device.type == "mps" else module.max_memory_allocated(device)


def synchronize(device: torch.device) -> None:
    """Return when all work on the accelerator is done."""
    import torch

    torch.accelerator.synchronize(device)


def empty_cache(device: torch.device) -> None:
    """Give memory that torch keeps for later tensors back to the accelerator."""
    _module(device).empty_cache()


def get_rng_state() -> dict[str, torch.Tensor]:
    """The state of the accelerator's generator by torch's name of it; empty without one."""
    import torch

    found = accelerator()
    return {found: _module(torch.device(found)).get_rng_state()} if found else {}


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore the generator of the accelerator here, if `state` has it."""
    import torch

    found = accelerator()
    if found is not None and found in state:
        _module(torch.device(found)).set_rng_state(state[found].clone())
