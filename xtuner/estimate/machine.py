"""What this machine has, found out without torch."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_FIELDS = "name,memory.total,memory.free"


@dataclass(frozen=True)
class Machine:
    """The device that a run would train on."""

    device: str  # cuda or cpu
    name: str
    total_bytes: int
    free_bytes: int
    has_bf16: bool = True
    num_cores: int = 1


@functools.cache
def find_machine() -> Machine:
    """The first GPU that `nvidia-smi` shows this process, else the CPU."""
    return _find_gpu() or Machine("cpu", "CPU", *_memory(), cpu_computes_in_bf16(), _num_cores())


def _find_gpu() -> Machine | None:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    program = shutil.which("nvidia-smi")
    if program is None or visible in ("", "-1"):
        return None
    command = [program, f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"]
    if visible:
        command += [f"--id={visible.split(',')[0]}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        name, total, free = [word.strip() for word in answer.splitlines()[0].split(",")]
        # Cards before Ampere compute in fp16 only.
        old = any(word in name for word in ("T4", "V100", "P100", "P40", "GTX", "RTX 20"))
        return Machine("cuda", name, int(total) * 2**20, int(free) * 2**20, not old)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def _num_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _memory() -> tuple[int, int]:
    """Bytes of memory and those that are free, no more than this process is allowed."""
    total, free = 8 * 2**30, 8 * 2**30
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = {key: int(value.split()[0]) * 1024 for key, value in (x.split(":", 1) for x in lines)}
        total, free = fields["MemTotal"], fields["MemAvailable"]
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        if limit != "max":
            total, free = min(total, int(limit)), min(free, max(0, int(limit) - used))
    except (OSError, KeyError, ValueError):
        pass
    return total, free


@functools.cache
def cpu_computes_in_bf16() -> bool:
    """Whether the CPU has instructions for bf16 matrices, not just for conversion."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
