"""Rotary positions on queries and keys, Su et al. 2021 (arXiv 2104.09864), nothing kept but the angles.

(x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin)        x1, x2: halves of a head
backward is the same turn by the opposite angle
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xtuner.model import kernels


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x [B, T, H, D]` turned by angles `[B, T, 1, D / 2]`."""
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    left, right = y.chunk(2, dim=-1)
    torch.mul(first, cos, out=left).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=right).addcmul_(first, sin)
    return y


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        return _turn(query, cos, sin), _turn(key, cos, sin)

    @staticmethod
    def backward(ctx: Any, d_query: Tensor, d_key: Tensor) -> tuple[Tensor, Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(d_query, cos, -sin), _turn(d_key, cos, -sin), None, None


class _KernelRotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        from xtuner.model.kernels.rotary import rotate

        ctx.save_for_backward(cos, sin)
        return rotate(query, key, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, d_query: Tensor, d_key: Tensor) -> tuple[Tensor, Tensor, None, None]:
        from xtuner.model.kernels.rotary import rotate

        return *rotate(d_query, d_key, *ctx.saved_tensors, -1.0), None, None


def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """`query` and `key`, `[B, T, H, D]`, turned; `cos` and `sin` are `[B, T, D]` with equal halves."""
    half = cos.shape[-1] // 2
    angles = (x[..., :half].unsqueeze(2) for x in (cos, sin))
    return (_KernelRotate if kernels.available(query) else _Rotate).apply(query, key, *angles)
