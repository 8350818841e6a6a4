"""What helps others to understand a fault on this machine, and nothing secret.

xtuner         0.4.0
Python         3.11.2, Linux 6.1.0 x86_64
CPU            2 cores, 23.5 GB of memory (22.1 GB free)
accelerator    NVIDIA H200, 143.8 GB (143.0 GB free), driver 570.86
disk           63.0 GB free in the working folder
packages       torch 2.13.0+cpu, transformers 5.23.0, ...
not installed  deepspeed, modelscope
variables      OMP_NUM_THREADS=1

Only variables of a list are shown, since others may hold keys; addresses without user and password.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Mapping

from packaging.requirements import Requirement

from xtuner import __version__
from xtuner.estimate.machine import (
    Machine,
    cpu_computes_in_bf16,
    find_machine,
    host_memory,
    num_cores,
    query_nvidia,
)
from xtuner.estimate.memory import size_text
from xtuner.extras import EXTRAS
from xtuner.language import translate

VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "HF_DATASETS_OFFLINE", "HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE", "LANG",
    "MASTER_ADDR", "NCCL_DEBUG", "NCCL_IB_DISABLE", "NCCL_P2P_DISABLE", "NCCL_SOCKET_IFNAME", "NNODES",
    "NODE_RANK", "NPROC_PER_NODE", "OMP_NUM_THREADS", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF",
    "SLURM_JOB_NUM_NODES", "SLURM_NTASKS", "TOKENIZERS_PARALLELISM", "TRANSFORMERS_OFFLINE",
    "TRITON_CACHE_DIR", "XTUNER_DEVICE", "XTUNER_LANG", "XTUNER_USE_MODELSCOPE",
)  # fmt: skip
# Used where they are installed.
_FURTHER = ("flash-attn", "flash-attn-3", "triton", "torchvision", "timm", "mmengine")


def describe() -> dict[str, str]:
    """The lines of the report: what of, and its text."""
    installed, missing = packages()
    free, system = shutil.disk_usage(".").free, platform.uname()
    lines = {
        "xtuner": __version__,
        "Python": f"{platform.python_version()}, {system.system} {system.release} {system.machine}",
        "CPU": _cpu(),
        "accelerator": _accelerators() or translate("no accelerator"),
        "disk": translate("{free} free in the working folder", free=size_text(free)),
        "packages": ", ".join(f"{name} {version}" for name, version in installed.items()),
        "not installed": ", ".join(missing),
        "variables": " ".join(f"{name}={value}" for name, value in _variables(os.environ).items()),
    }
    return {name: text for name, text in lines.items() if text}


def _cpu() -> str:
    total, free = host_memory()
    what = translate(
        "{count} cores, {total} of memory ({free} free)",
        count=num_cores(),
        total=size_text(total),
        free=size_text(free),
    )
    return what + (translate(", computes in bf16") if cpu_computes_in_bf16() else "")


def _accelerators() -> str:
    cards = query_nvidia("name,memory.total,memory.free,driver_version")
    found = [
        translate(
            "{name}, {total} ({free} free), driver {driver}",
            name=name,
            total=size_text(int(total) * 2**20),
            free=size_text(int(free) * 2**20),
            driver=driver,
        )
        for name, total, free, driver in cards
        if total.isdecimal() and free.isdecimal()
    ]
    machine = find_machine()
    return "; ".join(found or ([_other(machine)] if machine.device != "cpu" else []))


def _other(machine: Machine) -> str:
    return f"{machine.device}: {machine.name}, {size_text(machine.total_bytes)}"


def packages() -> tuple[dict[str, str], list[str]]:
    """Versions of the packages that XTuner needs or can use, and the names of those that are missing."""
    try:
        needed = [
            Requirement(text).name
            for text in importlib.metadata.requires("xtuner") or ()
            if "extra ==" not in text
        ]
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        needed = ["torch", "transformers", "peft"]
    optional = [Requirement(text).name for packages in EXTRAS.values() for text in packages]
    installed, missing = {}, []
    for name in dict.fromkeys([*needed, *optional]):
        if (version := _version(name)) is None:
            missing.append(name)
        else:
            installed[name] = version
    further = {name: version for name in _FURTHER if (version := _version(name)) is not None}
    return {**installed, **further}, missing


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of the list that are set, without user and password in addresses."""
    return {
        name: re.sub(r"//[^/@]*@", "//", environment[name]) for name in VARIABLES if environment.get(name)
    }
