"""Dropout whose mask is drawn inside the kernel, from a seed and the position of an element.

One call of Philox (Salmon et al. 2011, doi 10.1145/2063384.2063405) gives four words of 32 bits: 16 bits for
each of eight elements. Seven rounds are the fewest that pass all tests there; with the usual ten, arithmetic
would take as long as memory. An element is kept if its bits are at least rate x 65536; it is not scaled up.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# A program draws for eight blocks that follow each other.
BLOCK, PARTS = 512, 8


@triton.jit
def draw(seed, BLOCK: tl.constexpr):
    """Four words for each element of a block, of this program."""
    return tl.randint4x(seed, tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), 7)


@triton.jit
def is_kept(a, b, c, d, limit, PART: tl.constexpr):
    """Which elements of block `PART` the words of `draw` keep."""
    word = a
    if PART // 2 == 1:
        word = b
    if PART // 2 == 2:
        word = c
    if PART // 2 == 3:
        word = d
    if PART % 2 == 1:
        word = word >> 16
    return (word & 0xFFFF).to(tl.int32) >= limit


@triton.jit
def _masked(x, y, seed, limit, count, BLOCK: tl.constexpr):
    base = tl.program_id(0).to(tl.int64) * 8 * BLOCK
    a, b, c, d = draw(seed, BLOCK)
    for part in tl.static_range(8):
        at = base + part * BLOCK + tl.arange(0, BLOCK)
        value = tl.load(x + at, mask=at < count, other=0.0)
        keep = is_kept(a, b, c, d, limit, part)
        tl.store(y + at, tl.where(keep, value, 0.0).to(y.dtype.element_ty), mask=at < count)


def limit_of(rate: float) -> int:
    """The least number of 16 bits that keeps an element."""
    return round(rate * 65536)


def _launch(x: Tensor, y: Tensor, rate: float, seed: int) -> None:
    grid = (triton.cdiv(x.numel(), PARTS * BLOCK),)
    _masked[grid](x, y, seed, limit_of(rate), x.numel(), BLOCK=BLOCK)


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
