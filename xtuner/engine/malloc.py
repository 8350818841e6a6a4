"""On a CPU, memory that a run has freed stays with it: every update asks for the same blocks again.

glibc gives back what is free at the end of its heap, and the system clears each page that is asked for anew:
51,000 pages and a tenth of the time of an update of 56 million weights. Blocks of 32 MB and more go back all
the same, so that the largest tensors leave no holes.
"""

from __future__ import annotations

import ctypes
import os
import sys

import torch

# Of malloc.h: from how many bytes on a block is the system's own, and how many free ones are given back.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
_MMAP_MIN_BYTES, _TRIM_NEVER = 32 * 2**20, 2**31 - 1
# If the user set any of these, malloc is left alone.
_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep_freed_memory(device: torch.device) -> bool:
    """Whether malloc keeps from now on what is freed; it does so on Linux with glibc, for runs on a CPU."""
    if device.type != "cpu" or sys.platform != "linux" or any(name in os.environ for name in _SETTINGS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _MMAP_MIN_BYTES)) and bool(mallopt(_TRIM_THRESHOLD, _TRIM_NEVER))
