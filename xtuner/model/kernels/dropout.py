"""Dropout whose mask is drawn inside the kernel, from a seed and the position of an element.

One call of Philox (Salmon et al. 2011, doi 10.1145/2063384.2063405) gives four words of 32 bits: 16 bits for each
of eight elements. An element is kept if its bits are at least rate x 65536; it is not scaled up.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 512


@triton.jit
def _part(x, y, base, bits, limit, count, BLOCK: tl.constexpr):
    at = base + tl.arange(0, BLOCK)
    value = tl.load(x + at, mask=at < count, other=0.0)
    tl.store(y + at, tl.where(bits >= limit, value, 0.0).to(y.dtype.element_ty), mask=at < count)


@triton.jit
def _masked(x, y, seed, limit, count, BLOCK: tl.constexpr):
    base = tl.program_id(0).to(tl.int64) * 8 * BLOCK
    counter = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a, b, c, d = tl.randint4x(seed, counter)
    _part(x, y, base, a & 0xFFFF, limit, count, BLOCK)
    _part(x, y, base + BLOCK, (a >> 16) & 0xFFFF, limit, count, BLOCK)
    _part(x, y, base + 2 * BLOCK, b & 0xFFFF, limit, count, BLOCK)
    _part(x, y, base + 3 * BLOCK, (b >> 16) & 0xFFFF, limit, count, BLOCK)
    _part(x, y, base + 4 * BLOCK, c & 0xFFFF, limit, count, BLOCK)
    _part(x, y, base + 5 * BLOCK, (c >> 16) & 0xFFFF, limit, count, BLOCK)
    _part(x, y, base + 6 * BLOCK, d & 0xFFFF, limit, count, BLOCK)
    _part(x, y, base + 7 * BLOCK, (d >> 16) & 0xFFFF, limit, count, BLOCK)


def _launch(x: Tensor, y: Tensor, rate: float, seed: int) -> None:
    grid = (triton.cdiv(x.numel(), 8 * _BLOCK),)
    _masked[grid](x, y, seed, round(rate * 65536), x.numel(), BLOCK=_BLOCK)


@torch.library.custom_op("xtuner::masked", mutates_args=())
def masked(x: Tensor, rate: float, seed: int) -> Tensor:
    """`x` with zeros in place of the fraction `rate`; the same elements for the same seed and shape."""
    x = x.contiguous()
    y = torch.empty_like(x)
    _launch(x, y, rate, seed)
    return y


@masked.register_fake
def _like(x: Tensor, rate: float, seed: int) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("xtuner::mask_", mutates_args=("x",))
def mask_(x: Tensor, rate: float, seed: int) -> None:
    """The same in place, of a contiguous `x`."""
    assert x.is_contiguous()
    _launch(x, x, rate, seed)


@mask_.register_fake
def _nothing(x: Tensor, rate: float, seed: int) -> None:
    pass
