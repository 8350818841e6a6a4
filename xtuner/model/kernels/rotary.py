"""Rotary positions: both halves of a head are read and written once.

(x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin)        the gradient: the same with -sin
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _turn(
    x, cos, sin, y, heads, half, token_stride, angle_stride, sign,
    HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head, column = tl.arange(0, HEADS)[:, None], tl.arange(0, HALF)[None, :]
    inside = (head < heads) & (column < half)
    c = tl.load(cos + token * angle_stride + column, mask=column < half, other=0.0).to(tl.float32)
    s = tl.load(sin + token * angle_stride + column, mask=column < half, other=0.0).to(tl.float32) * sign
    at = token * token_stride + head * 2 * half + column
    first = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(x + at + half, mask=inside, other=0.0).to(tl.float32)
    to = token * heads * 2 * half + head * 2 * half + column
    tl.store(y + to, (first * c - second * s).to(y.dtype.element_ty), mask=inside)
    tl.store(y + to + half, (second * c + first * s).to(y.dtype.element_ty), mask=inside)


@torch.library.custom_op("xtuner::rotate", mutates_args=())
def rotate(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    """`x [B, T, H, D]` turned by the angles of `cos` and `sin [B, T, 1, D / 2]`, or back where `sign` is -1."""
    heads, width = x.shape[2:]
    if x.stride()[2:] != (width, 1) or x.stride(0) != x.shape[1] * x.stride(1):
        x = x.contiguous()
    y = _like(x, cos, sin, sign)
    half = width // 2
    angles = [a.expand(*x.shape[:2], 1, half).reshape(-1, half) for a in (cos, sin)]
    _turn[(x.shape[0] * x.shape[1],)](
        x, *angles, y, heads, half, x.stride(1), half, sign,
        HEADS=triton.next_power_of_2(heads), HALF=triton.next_power_of_2(half),
    )  # fmt: skip
    return y


@rotate.register_fake
def _like(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
