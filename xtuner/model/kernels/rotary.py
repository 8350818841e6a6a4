"""Rotary positions on queries and keys: both halves of all heads are read and written once.

(x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin)        the gradient: the same with -sin
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Elements of a program: a token of many heads has one of its own, tokens of few heads share one.
_TILE = 2048


@triton.jit
def _turn(x, y, c, s, token, stride, tokens, heads, half, HEADS: tl.constexpr, HALF: tl.constexpr):
    head, column = tl.arange(0, HEADS)[None, :, None], tl.arange(0, HALF)[None, None, :]
    inside = (token < tokens) & (head < heads) & (column < half)
    at = head * 2 * half + column
    first = tl.load(x + token * stride + at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(x + token * stride + at + half, mask=inside, other=0.0).to(tl.float32)
    to = token * heads * 2 * half + at
    tl.store(y + to, (first * c - second * s).to(y.dtype.element_ty), mask=inside)
    tl.store(y + to + half, (second * c + first * s).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _rotate(
    query, key, cos, sin, new_query, new_key, tokens, length, heads, key_heads, half,
    query_stride, key_stride, cos_stride, cos_row, sin_stride, sin_row, sign,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, KEY_HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)[:, None, None]
    row, place = token // length, token % length
    column = tl.arange(0, HALF)[None, None, :]
    inside = (token < tokens) & (column < half)
    c = tl.load(cos + row * cos_row + place * cos_stride + column, mask=inside, other=0.0).to(tl.float32)
    s = tl.load(sin + row * sin_row + place * sin_stride + column, mask=inside, other=0.0).to(tl.float32)
    s *= sign
    _turn(query, new_query, c, s, token, query_stride, tokens, heads, half, HEADS, HALF)
    _turn(key, new_key, c, s, token, key_stride, tokens, key_heads, half, KEY_HEADS, HALF)


@torch.library.custom_op("xtuner::rotate", mutates_args=())
def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, sign: float) -> tuple[Tensor, Tensor]:
    """`query` and `key [B, T, H, D]` turned by the angles of `cos` and `sin [B or 1, T, 1, D / 2]`.

    They are turned back where `sign` is -1.
    """
    query, key = _with_whole_heads(query), _with_whole_heads(key)
    turned = _like(query, key, cos, sin, sign)
    half = query.shape[3] // 2
    length, heads, key_heads = query.shape[1], query.shape[2], key.shape[2]
    rows = [0 if x.shape[0] == 1 else x.stride(0) for x in (cos, sin)]
    sizes = [triton.next_power_of_2(n) for n in (heads, key_heads, half)]
    each = max(1, _TILE // (sizes[0] * sizes[2]))
    tokens = len(query) * length
    _rotate[(triton.cdiv(tokens, each),)](
        query, key, cos, sin, *turned, tokens, length, heads, key_heads, half,
        query.stride(1), key.stride(1), cos.stride(1), rows[0], sin.stride(1), rows[1], sign,
        TOKENS=each, HEADS=sizes[0], KEY_HEADS=sizes[1], HALF=sizes[2],
    )  # fmt: skip
    return turned


def _with_whole_heads(x: Tensor) -> Tensor:
    """`x` with heads side by side, and one stride from token to token."""
    fits = x.stride()[2:] == (x.shape[3], 1) and (len(x) == 1 or x.stride(0) == x.shape[1] * x.stride(1))
    return x if fits else x.contiguous()


@rotate.register_fake
def _like(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, sign: float) -> tuple[Tensor, Tensor]:
    whole = torch.contiguous_format
    return torch.empty_like(query, memory_format=whole), torch.empty_like(key, memory_format=whole)
