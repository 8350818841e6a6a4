"""On a CPU, a run keeps freed memory, because every update allocates the same blocks again.

glibc returns free memory at the end of its heap, and the system clears each page that is allocated again:
51,000 pages and a tenth of the time of an update of 56 million weights. Blocks of 32 MB and more are still
returned, so that the largest tensors leave no holes.
"""

from __future__ import annotations

import ctypes
import os
import sys

import torch

# Of malloc.h: the size from which a block is mapped separately, and the free bytes that are returned.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
_MMAP_MIN_BYTES, _TRIM_NEVER = 32 * 2**20, 2**31 - 1
# If the user set any of these, malloc is not changed.
_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep_freed_memory(device: torch.device) -> bool:
    """Let malloc keep freed memory, on Linux with glibc, for runs on a CPU; returns whether it does."""
    if device.type != "cpu" or sys.platform != "linux" or any(name in os.environ for name in _SETTINGS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not in musl
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _MMAP_MIN_BYTES)) and bool(mallopt(_TRIM_THRESHOLD, _TRIM_NEVER))
