"""silu(gate) * up and its gradient, all in one pass.

h = silu(gate) up        d_up = dh silu(gate)        d_gate = dh up silu'(gate)
                         silu'(g) = s (1 + g (1 - s)), s = sigmoid(g)
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Eight elements for each thread of four warps.
_BLOCK = 1024


@triton.jit
def _forward(gate, up, h, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    g = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(h + at, (g * tl.sigmoid(g) * u).to(h.dtype.element_ty), mask=inside)


@triton.jit
def _backward(dh, gate, up, h, d_gate, d_up, count, NEEDS_H: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    d = tl.load(dh + at, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
    s = tl.sigmoid(g)
    if NEEDS_H:
        tl.store(h + at, (g * s * u).to(h.dtype.element_ty), mask=inside)
    tl.store(d_up + at, (d * g * s).to(d_up.dtype.element_ty), mask=inside)
    tl.store(d_gate + at, (d * u * s * (1 + g * (1 - s))).to(d_gate.dtype.element_ty), mask=inside)


@torch.library.custom_op("xtuner::silu_product", mutates_args=())
def silu_product(gate: Tensor, up: Tensor) -> Tensor:
    """`silu(gate) * up`, of two tensors of one shape and dtype."""
    gate, up = gate.contiguous(), up.contiguous()
    h = torch.empty_like(gate)
    _forward[(triton.cdiv(h.numel(), _BLOCK),)](gate, up, h, h.numel(), BLOCK=_BLOCK)
    return h


@silu_product.register_fake
def _like(gate: Tensor, up: Tensor) -> Tensor:
    return torch.empty_like(gate, memory_format=torch.contiguous_format)


@torch.library.custom_op("xtuner::silu_product_backward", mutates_args=())
def silu_product_backward(
    dh: Tensor, gate: Tensor, up: Tensor, needs_product: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The product again (empty unless `needs_product`), and the gradients of `gate` and `up`."""
    dh, gate, up = dh.contiguous(), gate.contiguous(), up.contiguous()
    h, d_gate, d_up = _like_gradients(dh, gate, up, needs_product)
    grid = (triton.cdiv(gate.numel(), _BLOCK),)
    _backward[grid](dh, gate, up, h, d_gate, d_up, gate.numel(), needs_product, BLOCK=_BLOCK)
    return h, d_gate, d_up


@silu_product_backward.register_fake
def _like_gradients(
    dh: Tensor, gate: Tensor, up: Tensor, needs_product: bool
) -> tuple[Tensor, Tensor, Tensor]:
    like = torch.empty_like(gate, memory_format=torch.contiguous_format)
    h = torch.empty_like(like) if needs_product else gate.new_empty(0)
    return h, torch.empty_like(like), like
