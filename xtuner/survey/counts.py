"""The counts of rows, and the lengths of samples."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

NUM_BINS = 20


@dataclass(frozen=True)
class Counts:
    """The counts of rows, samples and tokens."""

    rows: int
    samples: int
    tokens: int
    trained: int
    trained_share: float
    packs: int
    fill: float
    cut: int = 0
    cut_tokens: int = 0
    continued: int = 0
    empty_answers: int = 0
    empty_answer_rows: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    left_out_rows: dict[str, list[str]] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    dropped_rows: dict[str, list[str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Bin:
    """The number of samples with `low` to `high` tokens, both included."""

    low: int
    high: int
    count: int


@dataclass(frozen=True)
class Lengths:
    """Statistics and histogram of the tokens per sample."""

    min: int
    median: float
    mean: float
    p95: float
    max: int
    bins: list[Bin]


def describe_lengths(lengths: np.ndarray) -> Lengths:
    """The statistics of `lengths`; the last bin of the histogram includes the few extreme ones."""
    largest = int(lengths.max())
    usual = int(np.quantile(lengths, 0.995, method="higher"))
    smallest = int(lengths.min())
    width = _round_width(usual - smallest)
    start = smallest // width * width
    edges = np.arange(start, usual + 1, width)
    counts = np.bincount(np.minimum((lengths - start) // width, len(edges) - 1), minlength=len(edges))
    highs = [*(edges[1:] - 1).tolist(), largest]
    bins = [Bin(int(low), high, int(n)) for low, high, n in zip(edges, highs, counts, strict=True)]
    return Lengths(
        smallest,
        float(np.median(lengths)),
        float(lengths.mean()),
        float(np.quantile(lengths, 0.95)),
        largest,
        bins,
    )


def _round_width(span: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... of which NUM_BINS are wider than `span`."""
    width = 1
    for factor in (10**power * digit for power in range(12) for digit in (1, 2, 5)):
        width = factor
        if width * NUM_BINS > span:
            break
    return width
