"""FlexAttention on packed samples: windows, soft caps, sinks and biases of keys.

No square mask is made.

    boundaries 0 3 5      block of queries 0  ->  blocks of keys 0        listed on the host
    blocks of 2           block of queries 1  ->  blocks of keys 0 1
                          block of queries 2  ->  blocks of keys 1 2
    within a block        same sample, not later, inside the window       by a function of two positions

Dong et al. 2024, arXiv 2412.05496. torch compiles it for a GPU; on a CPU its reference form is tested.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xtuner.model.packed import to_device

BLOCK = 128


@functools.cache
def is_available() -> bool:
    """Whether torch has it here, and the compiler that it needs."""
    try:
        from torch.nn.attention.flex_attention import flex_attention  # noqa: F401
    except ImportError:
        return False
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _compiled() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def flex(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    boundaries: Sequence[int],
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
    key_bias: Tensor | None = None,
    function: Callable[..., Any] | None = None,
) -> Tensor:
    """Causal attention `[1, N, H, D]` of a packed row of `query [1, H, N, D]`, each sample alone.

    `boundaries` on the host. `key_bias [H, N]`: added to each key's scores. `function`: in place of the
    compiled `flex_attention`.
    """
    out = (function or _compiled())(
        query,
        key,
        value,
        score_mod=_of_scores(softcap, key_bias),
        block_mask=_block_mask(tuple(boundaries), window, query.device),
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
        **({} if sinks is None else _ask_for_logsumexp()),
    )
    if sinks is not None:
        out, logsumexp = out
        logsumexp = getattr(logsumexp, "lse", logsumexp)
        # The sink is one more score of the softmax: all others shrink by what it takes.
        kept = torch.sigmoid(logsumexp - sinks.to(logsumexp.dtype)[None, :, None])
        out = out * kept[..., None].to(out.dtype)
    return out.transpose(1, 2)


def _ask_for_logsumexp() -> dict[str, Any]:
    from torch.nn.attention import flex_attention

    if hasattr(flex_attention, "AuxRequest"):
        return {"return_aux": flex_attention.AuxRequest(lse=True)}
    return {"return_lse": True}  # torch before 2.9


def _of_scores(softcap: float | None, key_bias: Tensor | None) -> Callable[..., Tensor] | None:
    assert softcap is None or key_bias is None
    if softcap is not None:
        return _soft_cap(softcap)
    return None if key_bias is None else _plus(key_bias)


def _soft_cap(softcap: float) -> Callable[..., Tensor]:
    def capped(score: Tensor, batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


def _plus(key_bias: Tensor) -> Callable[..., Tensor]:
    def biased(score: Tensor, batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return score + key_bias[head, column]

    return biased


# Layers of one forward pass share it: those with a window, those without.
@functools.lru_cache(maxsize=4)
def _block_mask(boundaries: tuple[int, ...], window: int | None, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import BlockMask

    sample = to_device(np.repeat(np.arange(len(boundaries) - 1), np.diff(boundaries)), device)

    def is_seen(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        seen = (column <= row) & (sample[row] == sample[column])
        return seen if window is None else seen & (row - column < window)

    partial, full = blocks_of_keys(boundaries, window)
    length = boundaries[-1]
    return BlockMask.from_kv_blocks(
        *_listed(partial, device),
        *_listed(full, device),
        BLOCK_SIZE=BLOCK,
        mask_mod=is_seen,
        seq_lengths=(length, length),
    )


def blocks_of_keys(
    boundaries: Sequence[int], window: int | None
) -> tuple[list[Sequence[int]], list[Sequence[int]]]:
    """Of each block of queries the numbers of the blocks of keys seen in part, and of those seen whole."""
    starts = np.asarray(boundaries[:-1])
    partial: list[Sequence[int]] = []
    full: list[Sequence[int]] = []
    for first in range(0, boundaries[-1], BLOCK):
        last = min(first + BLOCK, boundaries[-1]) - 1
        begin = int(starts[np.searchsorted(starts, first, side="right") - 1])
        end = int(starts[np.searchsorted(starts, last, side="right") - 1])
        lowest = begin if window is None else max(begin, first - window + 1)
        seen = range(lowest // BLOCK, first // BLOCK + 1)
        # Of all queries in one sample: from the first whole block that the last query still sees.
        whole_from = begin if window is None else max(begin, last - window + 1)
        whole = range(-(-whole_from // BLOCK), first // BLOCK) if begin == end else range(0)
        full.append(whole)
        partial.append([number for number in seen if number not in whole])
    return partial, full


def _listed(blocks: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Counts `[1, 1, rows]` and block numbers `[1, 1, rows, rows]`, each row filled up to its count."""
    counts = np.array([len(row) for row in blocks], np.int32)
    numbers = np.zeros((len(blocks), len(blocks)), np.int32)
    for row, own in enumerate(blocks):
        numbers[row, : len(own)] = own
    return to_device(counts[None, None], device), to_device(numbers[None, None], device)
