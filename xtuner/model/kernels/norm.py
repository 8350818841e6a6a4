"""Root mean square norm and its gradient, several rows for each program.

y = round(x * scale) * weight        scale = 1 / sqrt(mean(x^2) + eps), one number a row, in fp32
dx = scale * (g - n * mean(g * n))   g = dy * weight, n = x * scale

x goes on beside the norm, too: the gradient that comes back along it is added in the same pass.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Elements of a program: rows of a head's width share one, rows of a model's width have one each.
_TILE = 4096
_WARPS = 8
# Programs that add up the weight's gradient, each over its part of the rows.
_PARTS = 256


@triton.jit
def _forward(x, weight, y, scale, rows, width, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < width)
    at = row * width + column
    value = tl.load(x + at, mask=inside, other=0.0)
    wide = value.to(tl.float32)
    factor = 1 / tl.sqrt(tl.sum(wide * wide, 1, keep_dims=True) / width + eps)
    tl.store(scale + row, factor, mask=row < rows)
    w = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
    # Rounded before the weight, as in the Llama family's own code.
    normed = (wide * factor).to(value.dtype).to(tl.float32)
    tl.store(y + at, (normed * w).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    dy, x, weight, scale, beside, dx, d_weight, rows, width, steps,
    NEEDS_X: tl.constexpr, NEEDS_WEIGHT: tl.constexpr, BESIDE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BLOCK)[None, :]
    w = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
    total = tl.zeros((1, BLOCK), tl.float32)
    for step in range(steps):
        row = (tl.program_id(0).to(tl.int64) * steps + step) * ROWS + tl.arange(0, ROWS)[:, None]
        inside = (row < rows) & (column < width)
        at = row * width + column
        factor = tl.load(scale + row, mask=row < rows, other=0.0)
        normed = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) * factor
        grad = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        if NEEDS_WEIGHT:
            total += tl.sum(grad * normed, 0, keep_dims=True)
        if NEEDS_X:
            grad = grad * w
            along = tl.sum(grad * normed, 1, keep_dims=True) / width
            grad = (grad - normed * along) * factor
            if BESIDE:
                grad += tl.load(beside + at, mask=inside, other=0.0).to(tl.float32)
            tl.store(dx + at, grad.to(dx.dtype.element_ty), mask=inside)
    if NEEDS_WEIGHT:
        tl.store(d_weight + tl.program_id(0) * width + column, total, mask=column < width)


def _sizes(width: int) -> dict[str, int]:
    block = triton.next_power_of_2(width)
    return {"BLOCK": block, "ROWS": max(1, _TILE // block)}


@torch.library.custom_op("xtuner::rms_norm", mutates_args=())
def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`x` normed over its last dimension, in `dtype`, and the scales `[..., 1]` for the gradient."""
    x = x.contiguous()
    y, scale = _like_norm(x, weight, eps, dtype)
    rows, sizes = scale.numel(), _sizes(x.shape[-1])
    _forward[(triton.cdiv(rows, sizes["ROWS"]),)](
        x, weight, y, scale, rows, x.shape[-1], eps, **sizes, num_warps=_WARPS
    )
    return y, scale


@rms_norm.register_fake
def _like_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, dtype=dtype), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)


@torch.library.custom_op("xtuner::rms_norm_backward", mutates_args=())
def rms_norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor, scale: Tensor, beside: Tensor | None, needs_x: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of `x` and, summed over rows, of `weight` in fp32; empty tensors for those not needed.

    `beside`: what else is added to the gradient of `x`.
    """
    dy, x = dy.contiguous(), x.contiguous()
    rows, width, sizes = scale.numel(), x.shape[-1], _sizes(x.shape[-1])
    tiles = triton.cdiv(rows, sizes["ROWS"])
    steps = triton.cdiv(tiles, _PARTS) if needs_weight else 1
    parts = triton.cdiv(tiles, steps)
    dx = torch.empty_like(x) if needs_x else x.new_empty(0)
    d_weight = x.new_empty((parts, width) if needs_weight else 0, dtype=torch.float32)
    _backward[(parts,)](
        dy, x, weight, scale, dy if beside is None else beside.contiguous(), dx, d_weight, rows, width, steps,
        NEEDS_X=needs_x, NEEDS_WEIGHT=needs_weight, BESIDE=beside is not None,
        **sizes, num_warps=_WARPS,
    )  # fmt: skip
    return dx, d_weight.sum(0) if needs_weight else d_weight


@rms_norm_backward.register_fake
def _like_gradients(
    dy: Tensor, x: Tensor, weight: Tensor, scale: Tensor, beside: Tensor | None, needs_x: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    dx = torch.empty_like(x) if needs_x else x.new_empty(0)
    return dx, x.new_empty(x.shape[-1] if needs_weight else 0, dtype=torch.float32)
