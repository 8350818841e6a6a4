"""Weights of 4 bits whose scales are themselves quantised, to the precision of a product, in one pass.

byte    two weights, the first in its upper half     value = levels[half] * scale of its block
scale   a byte for each block                        scale = scale_levels[byte] * outer of its group + offset
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

# Bytes of a program.
_BLOCK = 1024


@triton.jit
def _dequantize(
    codes, levels, scales, scale_levels, outer, offset, y, count, block, group, BLOCK: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    byte = tl.load(codes + at, mask=inside, other=0).to(tl.int32)
    number = 2 * at // block
    scale = tl.load(scale_levels + tl.load(scales + number, mask=inside, other=0).to(tl.int32))
    scale = scale * tl.load(outer + number // group, mask=inside, other=0.0) + tl.load(offset)
    first, second = tl.load(levels + (byte >> 4)) * scale, tl.load(levels + (byte & 15)) * scale
    both = tl.program_id(0).to(tl.int64) * 2 * BLOCK + tl.arange(0, 2 * BLOCK)
    value = tl.interleave(first, second).to(y.dtype.element_ty)
    tl.store(y + both, value, mask=both < 2 * count)


@torch.library.custom_op("xtuner::dequantize_nested", mutates_args=())
def dequantize_nested(
    codes: Tensor, levels: Tensor, scales: Tensor, scale_levels: Tensor, outer: Tensor, offset: Tensor,
    block: int, group: int, shape: Sequence[int], dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """The weights `shape` of `codes`; `block` weights have a scale, `group` scales an outer one."""
    codes = codes.contiguous().view(torch.uint8)
    y = codes.new_empty(tuple(shape), dtype=dtype)
    assert y.numel() == 2 * codes.numel()
    _dequantize[(triton.cdiv(codes.numel(), _BLOCK),)](
        codes, levels, scales, scale_levels, outer, offset, y, codes.numel(), block, group, BLOCK=_BLOCK
    )
    return y


@dequantize_nested.register_fake
def _like(
    codes: Tensor, levels: Tensor, scales: Tensor, scale_levels: Tensor, outer: Tensor, offset: Tensor,
    block: int, group: int, shape: Sequence[int], dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    return codes.new_empty(tuple(shape), dtype=dtype)
