"""The resources of this machine, found without torch where the accelerator is NVIDIA's or none."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from xtuner import devices

if TYPE_CHECKING:
    import torch

_FIELDS = "name,memory.total,memory.free"


@dataclass(frozen=True)
class Machine:
    """The device that a run would train on."""

    device: str  # torch's name of its kind
    name: str
    total_bytes: int
    free_bytes: int
    has_bf16: bool = True
    num_cores: int = 1


@functools.cache
def find_machine() -> Machine:
    """The first GPU that `nvidia-smi` shows this process, else what torch finds, else the CPU."""
    return (
        _find_nvidia()
        or _find_other()
        or Machine("cpu", "CPU", *host_memory(), cpu_computes_in_bf16(), num_cores())
    )


def _find_other() -> Machine | None:
    """An accelerator of another maker, as torch describes it."""
    if not devices.may_have_accelerator():
        return None
    kind = devices.accelerator()
    if kind is None:
        return None
    import torch

    device = torch.device(kind, 0)
    free, total = memory_of(device)
    return Machine(kind, devices.name_of(device), total, free, devices.computes_in_bf16(device), num_cores())


def memory_of(device: torch.device) -> tuple[int, int]:
    """Free and total bytes for tensors on `device`; of the host's memory never more than is free there."""
    if not devices.is_accelerator(device):
        total, free = host_memory()
        return free, total
    free, total = devices.memory_of(device)
    return (free if devices.kind_of(device).has_own_memory else min(free, free_memory())), total


def _find_nvidia() -> Machine | None:
    if devices.is_left_alone():
        return None
    cards = query_nvidia(_FIELDS, only_first=True)
    try:
        name, total, free = cards[0]
        # Cards before Ampere compute in fp16 only.
        old = any(word in name for word in ("T4", "V100", "P100", "P40", "GTX", "RTX 20"))
        return Machine("cuda", name, int(total) * 2**20, int(free) * 2**20, not old)
    except (ValueError, IndexError):
        return None


def query_nvidia(fields: str, only_first: bool = False) -> list[list[str]]:
    """What `nvidia-smi` says of the cards that this process may use, or of the first; [] without one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    program = shutil.which("nvidia-smi")
    if program is None or visible in ("", "-1"):
        return []
    command = [program, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    if visible:
        command += [f"--id={visible.split(',')[0] if only_first else visible}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [[word.strip() for word in line.split(",")] for line in answer.splitlines()]


def num_cores() -> int:
    """The number of CPU cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def free_memory() -> int:
    """Bytes of the host's memory that this process can still allocate."""
    return host_memory()[1]


def host_memory(root: Path = Path("/")) -> tuple[int, int]:
    """Total and free memory in bytes, within the limits of the cgroups of this process."""
    host = psutil.virtual_memory()
    total, free = host.total, host.available
    for limit, used in _cgroups(root):
        total, free = min(total, limit), min(free, max(0, limit - used))
    return total, free


def _cgroups(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use of each cgroup of this process, from the innermost to the outermost visible one.

    A container sees only its part of the tree, so a folder of the path may not exist.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            tree, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            tree = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        own = tree / path.strip("/")
        for folder in (own, *own.parents[: len(own.parts) - len(tree.parts)]):
            try:
                limit, used = ((folder / name).read_text().strip() for name in names[:2])
                stat = dict(pair.split() for pair in (folder / "memory.stat").read_text().splitlines())
                if limit != "max":
                    # The page cache counts as used, but is freed on demand.
                    yield int(limit), int(used) - int(stat.get(names[2], 0))
            except (OSError, ValueError):
                continue


@functools.cache
def cpu_computes_in_bf16() -> bool:
    """Whether the CPU has instructions for bf16 matrices, not just for conversion."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
