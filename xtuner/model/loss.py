"""Which positions are trained, and their cross entropy.

samples     a  b  c | d  e        borders [0, 3, 5]
labels     -   b  c | d  e        ("-" is -100: not trained)
positions   0  1      3           a position predicts the token after it,
targets     b  c      e           the first token of a sample ("d") is nobody's target
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xtuner.utils.constants import IGNORE_INDEX

# Rows of logits that are in fp32 at one time; 512 rows of a 150k vocabulary are 300 MB.
CHUNK = 512


def trained_positions(labels: Tensor, borders: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
    """Positions whose next token is trained, and those tokens; `labels [N]`, samples end at `borders`."""
    targets = torch.roll(labels, -1)
    last = torch.as_tensor(borders, device=labels.device, dtype=torch.long)[1:] - 1
    targets[last] = IGNORE_INDEX
    positions = (targets != IGNORE_INDEX).nonzero().flatten()
    return positions, targets[positions]


class _CrossEntropySum(torch.autograd.Function):
    """Keeps the logits as they are and one number a row; the rest is computed again in backward."""

    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor) -> Tensor:
        exact = _exact_dtype(logits)
        log_norm = torch.empty(len(logits), dtype=exact, device=logits.device)
        loss = torch.zeros((), dtype=exact, device=logits.device)
        for start in range(0, len(logits), CHUNK):
            rows = slice(start, start + CHUNK)
            chunk = logits[rows].to(exact)
            log_norm[rows] = chunk.logsumexp(-1)
            loss += (log_norm[rows] - chunk.gather(1, targets[rows, None]).squeeze(1)).sum()
        ctx.save_for_backward(logits, targets, log_norm)
        return loss

    @staticmethod
    def backward(ctx, grad_loss: Tensor) -> tuple[Tensor, None]:
        logits, targets, log_norm = ctx.saved_tensors
        grad = torch.empty_like(logits)
        for start in range(0, len(logits), CHUNK):
            rows = slice(start, start + CHUNK)
            chunk = (logits[rows].to(log_norm.dtype) - log_norm[rows, None]).exp_()
            chunk.scatter_add_(1, targets[rows, None], chunk.new_full((len(chunk), 1), -1.0))
            grad[rows] = chunk.mul_(grad_loss)
        return grad, None


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross entropies of `logits [M, V]` against `targets [M]`, in fp32 by chunks of rows."""
    return _CrossEntropySum.apply(logits, targets)


def _exact_dtype(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32
