"""What changed between two measurements of the same items, and whether that is more than noise.

perplexity    log p of text i: before b_i, after a_i, of t_i tokens; d = sum(b - a) / sum(t)
              its standard error, of a ratio of sums: sqrt(n / (n - 1) * sum((b_i - a_i - d t_i)^2)) / sum(t)
accuracy      the mean of a_i - b_i over the same questions, and its standard error

Both are of pairs, so items that are hard before and after do not widen them. A change counts from two
standard errors on. They describe the choice of items: another set of the same kind would differ so much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.cells import cell_len

from xtuner.evaluation.forgetting.items import Metric, number_of
from xtuner.language import translate

LOST, BETTER, UNCLEAR = "lost", "better", "no clear change"
ERRORS = 2
"""Standard errors from which a change counts."""


@dataclass(frozen=True)
class Change:
    """A number before, at its best and after training; without `error` there is no verdict."""

    name: str
    before: float
    best: float
    after: float
    error: float | None = None
    is_better_if_larger: bool = False

    @property
    def difference(self) -> float:
        return self.after - self.before

    @property
    def verdict(self) -> str:
        if self.error is None:
            return ""
        if not math.isfinite(self.after):
            return LOST
        if abs(self.difference) <= ERRORS * self.error:
            return UNCLEAR
        return BETTER if (self.difference > 0) == self.is_better_if_larger else LOST


def change_of(metric: Metric, before: Sequence[float], after: Sequence[float], best: float) -> Change:
    """The change of a metric, from the values of its items."""
    numbers = number_of(metric, before), number_of(metric, after)
    error = standard_error(np.subtract(after, before), np.asarray(metric.weights))
    if not metric.is_accuracy:
        error *= numbers[1]  # of the perplexity, from that of its logarithm
    return Change(metric.name, numbers[0], best, numbers[1], error, metric.is_accuracy)


def standard_error(differences: np.ndarray, weights: np.ndarray) -> float:
    """The standard error of sum(differences) / sum(weights); 0 of a single item."""
    count, total = len(weights), weights.sum()
    if count < 2:
        return 0.0
    rest = differences - differences.sum() / total * weights
    return float(math.sqrt(count / (count - 1) * float((rest**2).sum())) / total)


def table_of(changes: Sequence[Change]) -> str:
    """The changes as lines of text."""
    head = ["", *(translate(name) for name in ("before", "best", "after", "difference")), ""]
    rows = [head]
    for one in changes:
        numbers = [f"{value:.4f}" for value in (one.before, one.best, one.after)]
        error = "" if one.error is None else f" ± {one.error:.4f}"
        rows.append(
            [
                one.name,
                *numbers,
                f"{one.difference:+.4f}{error}",
                translate(one.verdict) if one.verdict else "",
            ]
        )
    widths = [max(cell_len(row[n]) for row in rows) for n in range(len(head))]
    return "\n".join(
        "  ".join(
            _padded(cell, width, n) for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _padded(cell: str, width: int, column: int) -> str:
    space = " " * (width - cell_len(cell))
    return cell + space if column in (0, 4, 5) else space + cell
