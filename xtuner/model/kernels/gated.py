"""silu(gate) * up and its gradient, with dropout of the product for a LoRA layer after it, all in one pass.

h = silu(gate) up        d_up = dh silu(gate)        d_gate = dh up silu'(gate)
                         silu'(g) = s (1 + g (1 - s)), s = sigmoid(g)
dropped = mask h         dh = that through the base layer + mask * that through the adapter
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from xtuner.model.kernels.dropout import BLOCK, PARTS, draw, is_kept, limit_of


@triton.jit
def _forward(gate, up, h, dropped, seed, limit, count, DROPS: tl.constexpr, BLOCK: tl.constexpr):
    base = tl.program_id(0).to(tl.int64) * 8 * BLOCK
    if DROPS:
        a, b, c, d = draw(seed, BLOCK)
    for part in tl.static_range(8):
        at = base + part * BLOCK + tl.arange(0, BLOCK)
        inside = at < count
        g = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
        u = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
        product = (g * tl.sigmoid(g) * u).to(h.dtype.element_ty)
        tl.store(h + at, product, mask=inside)
        if DROPS:
            keep = is_kept(a, b, c, d, limit, part)
            tl.store(dropped + at, tl.where(keep, product, 0.0).to(h.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    dh, low, gate, up, h, d_gate, d_up, seed, limit, count,
    NEEDS_H: tl.constexpr, DROPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    base = tl.program_id(0).to(tl.int64) * 8 * BLOCK
    if DROPS:
        a, b, c, d = draw(seed, BLOCK)
    for part in tl.static_range(8):
        at = base + part * BLOCK + tl.arange(0, BLOCK)
        inside = at < count
        grad = tl.load(dh + at, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
        u = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
        s = tl.sigmoid(g)
        product = g * s * u
        if DROPS:
            keep = is_kept(a, b, c, d, limit, part)
            grad += tl.where(keep, tl.load(low + at, mask=inside, other=0.0).to(tl.float32), 0.0)
            product = tl.where(keep, product, 0.0)
        if NEEDS_H:
            tl.store(h + at, product.to(h.dtype.element_ty), mask=inside)
        tl.store(d_up + at, (grad * g * s).to(d_up.dtype.element_ty), mask=inside)
        tl.store(d_gate + at, (grad * u * s * (1 + g * (1 - s))).to(d_gate.dtype.element_ty), mask=inside)


def _grid(x: Tensor) -> tuple[int]:
    return (triton.cdiv(x.numel(), PARTS * BLOCK),)


@torch.library.custom_op("xtuner::silu_product", mutates_args=())
def silu_product(gate: Tensor, up: Tensor, rate: float, seed: int) -> tuple[Tensor, Tensor]:
    """`silu(gate) * up`, of two tensors of one shape and dtype, and that after dropout (empty at rate 0)."""
    gate, up = gate.contiguous(), up.contiguous()
    h, dropped = _like_products(gate, up, rate, seed)
    _forward[_grid(h)](gate, up, h, dropped, seed, limit_of(rate), h.numel(), DROPS=rate > 0, BLOCK=BLOCK)
    return h, dropped


@silu_product.register_fake
def _like_products(gate: Tensor, up: Tensor, rate: float, seed: int) -> tuple[Tensor, Tensor]:
    h = torch.empty_like(gate, memory_format=torch.contiguous_format)
    return h, torch.empty_like(h) if rate else gate.new_empty(0)


@torch.library.custom_op("xtuner::silu_product_backward", mutates_args=())
def silu_product_backward(dh: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of `gate` and `up`."""
    dh, gate, up = dh.contiguous(), gate.contiguous(), up.contiguous()
    d_gate, d_up = _like_gradients(dh, gate, up)
    _backward[_grid(gate)](
        dh, dh, gate, up, dh, d_gate, d_up, 0, 0, gate.numel(), NEEDS_H=False, DROPS=False, BLOCK=BLOCK
    )
    return d_gate, d_up


@silu_product_backward.register_fake
def _like_gradients(dh: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    like = torch.empty_like(gate, memory_format=torch.contiguous_format)
    return torch.empty_like(like), like


@torch.library.custom_op("xtuner::dropped_silu_product_backward_", mutates_args=("dh", "low"))
def dropped_silu_product_backward_(
    dh: Tensor, low: Tensor, gate: Tensor, up: Tensor, rate: float, seed: int
) -> Tensor:
    """The dropped product again; the gradients of `gate` and `up` take the places of `dh` and `low`.

    `dh`: through the base layer; `low`: through its adapter, before the mask. At rate 0 both are in `dh`.
    """
    assert dh.is_contiguous()
    assert low.is_contiguous()
    gate, up = gate.contiguous(), up.contiguous()
    h = _like_product(dh, low, gate, up, rate, seed)
    _backward[_grid(gate)](
        dh, low, gate, up, h, dh, low, seed, limit_of(rate), gate.numel(),
        NEEDS_H=True, DROPS=rate > 0, BLOCK=BLOCK,
    )  # fmt: skip
    return h


@dropped_silu_product_backward_.register_fake
def _like_product(dh: Tensor, low: Tensor, gate: Tensor, up: Tensor, rate: float, seed: int) -> Tensor:
    return torch.empty_like(gate, memory_format=torch.contiguous_format)
