"""Rows of all processes as one tensor, through which gradients flow back.

process 0   [a b]      all   [a b c]       the gradient of a row is the sum of those of all processes
process 1   [c]
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as torch_dist
from torch import Tensor


def gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """The rows `[n, ...]` of all processes by rank, and the number of the first own one; a collective.

    The processes may have different numbers of rows.
    """
    if not torch_dist.is_initialized() or torch_dist.get_world_size() == 1:
        return rows, 0
    sizes = [torch.zeros(1, dtype=torch.long) for _ in range(torch_dist.get_world_size())]
    torch_dist.all_gather(sizes, torch.tensor([len(rows)]))
    counts = [int(size) for size in sizes]
    start = sum(counts[: torch_dist.get_rank()])
    return _GatherRows.apply(rows, counts, start), start


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int], start: int) -> Tensor:
        ctx.own = slice(start, start + len(rows))
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        found = [torch.empty_like(padded) for _ in counts]
        torch_dist.all_gather(found, padded)
        return torch.cat([part[:count] for part, count in zip(found, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        whole = grads[0].contiguous().clone()
        torch_dist.all_reduce(whole)
        return whole[ctx.own], None, None
