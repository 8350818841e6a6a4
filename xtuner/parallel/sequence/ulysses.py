"""A sequence divided among a group of processes (DeepSpeed-Ulysses, Jacobs et al. 2023).

    8 tokens, 4 heads, 2 processes          process 0             process 1
    outside of attention                    tokens 0-3            tokens 4-7            all heads
    in attention                            tokens 0-7, heads 0 1 tokens 0-7, heads 2 3

Labels are shifted on the whole sequence before it is cut, so none is lost at a cut. The boundaries of packed
samples are those of the whole sequence, which attention reads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from xtuner.errors import ConfigError
from xtuner.language import translate


def padded_length(length: int, group: Any) -> int:
    """The next length that is divisible by the size of `group`."""
    size = dist.get_world_size(group)
    return -(-length // size) * size


def own_part(tensor: Tensor, dim: int, group: Any) -> Tensor:
    """The part of `tensor` along `dim` that this process keeps."""
    return tensor.chunk(dist.get_world_size(group), dim)[dist.get_rank(group)]


def own_range(length: int, group: Any) -> tuple[int, int]:
    """The first token of this process's part of `length` tokens, and the one after its last."""
    part = length // dist.get_world_size(group)
    return part * dist.get_rank(group), part * (dist.get_rank(group) + 1)


def own_pieces(boundaries: Sequence[int], group: Any) -> list[tuple[int, int]]:
    """For each sample in this process's part of a sequence: its number of tokens here, and its length."""
    start, end = own_range(boundaries[-1], group)
    here = [(min(b, end) - max(a, start), b - a) for a, b in itertools.pairwise(boundaries)]
    return [(count, length) for count, length in here if count > 0]


class _Exchange(torch.autograd.Function):
    """Cuts along one dimension, sends each process its piece, joins the received ones along another."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cut: int, join: int, group: Any) -> Tensor:
        ctx.cut, ctx.join, ctx.group = cut, join, group
        return _exchange(x, cut, join, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _exchange(grad, ctx.join, ctx.cut, ctx.group), None, None, None


def _exchange(x: Tensor, cut: int, join: int, group: Any) -> Tensor:
    sent = torch.stack(x.chunk(dist.get_world_size(group), cut))
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=group)
    return torch.cat(received.unbind(), join)


def to_heads(query: Tensor, key: Tensor, value: Tensor, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """`[1, H, T / P, D]` to `[1, H / P, T, D]`; keys and values are repeated only as far as P needs."""
    size = dist.get_world_size(group)
    times = size // math.gcd(size, key.shape[1])
    if times > 1:
        key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    q, k, v = (_Exchange.apply(x, 1, 2, group) for x in (query, key, value))
    return q, k, v


def to_tokens(output: Tensor, group: Any) -> Tensor:
    """`[1, T, H / P, D]` to `[1, T / P, H, D]`."""
    return _Exchange.apply(output, 1, 2, group)


def check_heads(num_heads: int, num_kv_heads: int, size: int) -> None:
    """Raise ConfigError if the attention heads cannot be divided among `size` processes."""
    kv = num_kv_heads * (size // math.gcd(size, num_kv_heads))
    if num_heads % size or num_heads % kv:
        possible = [n for n in range(1, num_heads + 1) if num_heads % n == 0]
        raise ConfigError(
            translate(
                "sequence_parallel_size is {size}, but the model has {num_heads} attention heads "
                "({num_kv_heads} for keys): it must be one of {sizes}",
                size=size,
                num_heads=num_heads,
                num_kv_heads=num_kv_heads,
                sizes=", ".join(map(str, possible)),
            )
        )
