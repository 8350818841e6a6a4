"""Who this process is among its peers. The only reader of RANK, WORLD_SIZE and their like."""

from __future__ import annotations

import os


def rank() -> int:
    """This process's number over all machines, 0 when alone."""
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """This process's number on its machine, 0 when alone."""
    return int(os.environ.get("LOCAL_RANK", 0))


def world_size() -> int:
    """How many processes train together, 1 when alone."""
    return int(os.environ.get("WORLD_SIZE", 1))


def device():
    """The torch device this process computes on: its own GPU, or the CPU where there is none."""
    import torch

    return torch.device("cuda", local_rank()) if torch.cuda.is_available() else torch.device("cpu")
