"""Cross entropy of logits, which become their gradient in place.

logits [M, V]  ->  softmax(logits) - onehot(target), times a factor for each row, in place
losses [M]     =   log sum exp(logits) - logit of the target
entropies [M]  =   log sum exp(logits) - mean of the logits under softmax(logits)

A program reads a row for its maximum and the sum of its exponentials (Milakov and Gimelshein 2018, arXiv
1805.02867), and again, from the cache, for the gradient.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 8192
_WARPS = 16


@triton.jit
def _cross_entropy(
    logits, targets, factors, losses, entropies, width, stride,
    GRADIENT: tl.constexpr, FACTORS: tl.constexpr, ENTROPY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    target = tl.load(targets + row)
    top, total, weighted = -float("inf"), 0.0, 0.0
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x = tl.load(logits + column, mask=column < width, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(top, tl.max(x, 0))
        p = tl.exp(x - higher)
        if ENTROPY:
            # `weighted` is the sum of exp(x - top) * (x - top), of the columns so far.
            moved = weighted + total * tl.where(total > 0, top - higher, 0.0)
            weighted = moved * tl.exp(top - higher) + tl.sum(p * tl.where(p > 0, x - higher, 0.0), 0)
        total = total * tl.exp(top - higher) + tl.sum(p, 0)
        top = higher
    wanted = tl.load(logits + target).to(tl.float32)
    tl.store(losses + row, tl.log(total) + (top - wanted))
    if ENTROPY:
        tl.store(entropies + row, tl.log(total) - weighted / total)
    if GRADIENT:
        factor = 1.0
        if FACTORS:
            factor = tl.load(factors + row).to(tl.float32)
        # All threads have read the target's logit before it is overwritten.
        tl.debug_barrier()
        for start in range(0, width, BLOCK):
            column = start + tl.arange(0, BLOCK)
            x = tl.load(logits + column, mask=column < width, other=-float("inf")).to(tl.float32)
            p = tl.exp(x - top) / total
            grad = tl.where(column == target, p - 1, p) * factor
            tl.store(logits + column, grad.to(logits.dtype.element_ty), mask=column < width)


def _launch(
    logits: Tensor,
    targets: Tensor,
    factors: Tensor | None,
    gradient: bool,
    entropies: Tensor | None = None,
) -> Tensor:
    assert logits.stride(1) == 1
    losses = _like(logits, targets)
    block = min(_BLOCK, triton.next_power_of_2(logits.shape[1]))
    _cross_entropy[(len(logits),)](
        logits, targets, losses if factors is None else factors, losses,
        losses if entropies is None else entropies, logits.shape[1], logits.stride(0),
        GRADIENT=gradient, FACTORS=factors is not None, ENTROPY=entropies is not None, BLOCK=block,
        num_warps=_WARPS,
    )  # fmt: skip
    return losses


@torch.library.custom_op("xtuner::cross_entropy", mutates_args=())
def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Losses `[M]` in fp32 of `logits [M, V]` for `targets [M]`."""
    return _launch(logits, targets, None, False)


@torch.library.custom_op("xtuner::cross_entropy_and_entropy", mutates_args=())
def cross_entropy_and_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The same, and the entropies `[M]` of the distributions."""
    entropies = _like(logits, targets)
    return _launch(logits, targets, None, False, entropies), entropies


@torch.library.custom_op("xtuner::cross_entropy_", mutates_args=("logits",))
def cross_entropy_(logits: Tensor, targets: Tensor, factors: Tensor | None) -> Tensor:
    """The same; `logits` become the gradient of the sum of the losses, each times its factor, if any."""
    return _launch(logits, targets, factors, True)


@cross_entropy.register_fake
def _like(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.new_empty(len(logits), dtype=torch.float32)


@cross_entropy_.register_fake
def _like_losses(logits: Tensor, targets: Tensor, factors: Tensor | None) -> Tensor:
    return _like(logits, targets)


@cross_entropy_and_entropy.register_fake
def _like_both(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return _like(logits, targets), _like(logits, targets)
