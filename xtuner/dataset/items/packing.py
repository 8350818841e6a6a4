"""Plan which samples form a pack of at most `max_length` tokens.

    lengths   [3, 2, 4]            max_length = 5
    plan      [[0, 1], [2]]        packs (a a a b b) (c c c c)
    as data   order [0, 1, 2], boundaries [0, 2, 3]

Samples are not cut here: `encode` has cut those longer than `max_length`. The plan depends on lengths and
seed alone, so all processes make the same plan.

The plan is best-fit decreasing on the histogram of lengths: the longest samples first, each into the fullest
pack that still has space. Packs with the same lengths are one `_Packs` group, so the work grows with the
number of different lengths and not with the number of samples (idea: Krell et al., arXiv 2107.02027).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PackPlan:
    """Pack `i` holds the samples `order[boundaries[i]:boundaries[i + 1]]`."""

    order: np.ndarray  # int64, every sample number once
    boundaries: np.ndarray  # int64, one more than there are packs

    def __len__(self) -> int:
        return len(self.boundaries) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.order[self.boundaries[index] : self.boundaries[index + 1]]

    def lengths(self, lengths: np.ndarray) -> np.ndarray:
        """The number of tokens of each pack, from those of the samples."""
        total = np.concatenate([[0], np.cumsum(lengths[self.order], dtype=np.int64)])
        return total[self.boundaries[1:]] - total[self.boundaries[:-1]]


@dataclass
class _Packs:
    """`count` packs with samples of the same lengths; `contents` is a linked list (length, number, rest)."""

    count: int
    contents: tuple | None


def plan_single(count: int) -> PackPlan:
    """Each sample as a separate pack, in order."""
    return PackPlan(np.arange(count, dtype=np.int64), np.arange(count + 1, dtype=np.int64))


def plan_chosen(numbers: np.ndarray) -> PackPlan:
    """Only the samples with these numbers, each as a separate pack, in order."""
    return PackPlan(numbers.astype(np.int64), np.arange(len(numbers) + 1, dtype=np.int64))


def plan_by_group(groups: np.ndarray) -> PackPlan:
    """Neighbouring samples with the same number in `groups` as one pack, in order."""
    changes = np.flatnonzero(np.diff(groups)) + 1
    boundaries = np.concatenate([[0], changes, [len(groups)]]) if len(groups) else np.zeros(1)
    return PackPlan(np.arange(len(groups), dtype=np.int64), boundaries.astype(np.int64))


def plan_units(units: PackPlan, plan: PackPlan) -> PackPlan:
    """A `plan` of units as a plan of samples; unit `i` holds the samples `units[i]`."""
    sizes = np.diff(units.boundaries)[plan.order]
    starts = units.boundaries[:-1][plan.order]
    ends = np.concatenate([[0], np.cumsum(sizes)])
    inside = np.arange(ends[-1]) - np.repeat(ends[:-1], sizes)
    return PackPlan(units.order[np.repeat(starts, sizes) + inside], ends[plan.boundaries])


def plan_in_order(lengths: np.ndarray, max_length: int) -> PackPlan:
    """Samples in order; a new pack begins if the next sample does not fit."""
    _check(lengths, max_length)
    ends = np.cumsum(lengths, dtype=np.int64)
    boundaries = [0]
    while boundaries[-1] < len(lengths):
        start = ends[boundaries[-1] - 1] if boundaries[-1] else 0
        boundaries.append(int(np.searchsorted(ends, start + max_length, side="right")))
    return PackPlan(np.arange(len(lengths), dtype=np.int64), np.array(boundaries, np.int64))


def plan_packs(lengths: np.ndarray, max_length: int, seed: int | Sequence[int] = 0) -> PackPlan:
    """The packs of best-fit decreasing; `seed` shuffles samples of equal length, and the packs."""
    _check(lengths, max_length)
    if not len(lengths):
        return plan_single(0)
    random = np.random.default_rng(seed)
    shuffled = random.permutation(len(lengths))
    by_length = shuffled[np.argsort(lengths[shuffled], kind="stable")]
    counts = np.bincount(lengths, minlength=max_length + 1)
    groups = _best_fit_decreasing(counts.tolist(), max_length)
    order, sizes = _draw(groups, by_length, np.cumsum(counts) - counts)
    return _shuffle_packs(order, sizes, random)


def _check(lengths: np.ndarray, max_length: int) -> None:
    assert not len(lengths) or (lengths.min() >= 0 and lengths.max() <= max_length), "a sample was not cut"


def _best_fit_decreasing(counts: list[int], max_length: int) -> list[_Packs]:
    """The packs of best-fit decreasing for `counts[n]` samples of length n."""
    open_packs: defaultdict[int, list[_Packs]] = defaultdict(list)  # by remaining space
    spaces = 0  # bit s is set if open_packs[s] is not empty

    def put(space: int, packs: _Packs) -> None:
        nonlocal spaces
        open_packs[space].append(packs)
        spaces |= 1 << space

    for length in range(max_length, 0, -1):
        left = counts[length]
        while left:
            fitting = spaces >> length
            if not fitting:
                break
            space = length + (fitting & -fitting).bit_length() - 1
            packs = open_packs[space][-1]
            taken = min(packs.count, left)
            left -= taken
            packs.count -= taken
            if not packs.count:
                open_packs[space].pop()
                if not open_packs[space]:
                    spaces &= ~(1 << space)
            put(space - length, _Packs(taken, (length, 1, packs.contents)))
        per_pack = max_length // length
        full, rest = divmod(left, per_pack)
        if full:
            put(max_length - length * per_pack, _Packs(full, (length, per_pack, None)))
        if rest:
            put(max_length - length * rest, _Packs(1, (length, rest, None)))
    groups = [packs for space in sorted(open_packs) for packs in open_packs[space]]
    if counts[0]:
        groups.append(_Packs(1, (0, counts[0], None)))
    return groups


def _draw(groups: list[_Packs], by_length: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sample numbers pack after pack, and the number of samples of each pack.

    `by_length` holds the sample numbers sorted by length; those of length n begin at `first[n]`.
    """
    next_free = first.tolist()
    parts, sizes = [], []
    for packs in groups:
        columns = []
        contents = packs.contents
        while contents is not None:
            length, times, contents = contents
            start = next_free[length]
            next_free[length] = end = start + packs.count * times
            columns.append(by_length[start:end].reshape(packs.count, times))
        table = np.concatenate(columns, axis=1) if len(columns) > 1 else columns[0]
        parts.append(table.ravel())
        sizes.append(np.full(packs.count, table.shape[1], np.int64))
    return np.concatenate(parts), np.concatenate(sizes)


def _shuffle_packs(order: np.ndarray, sizes: np.ndarray, random: np.random.Generator) -> PackPlan:
    """The same packs in random order."""
    starts = np.cumsum(sizes) - sizes
    packs = random.permutation(len(sizes))
    sizes, starts = sizes[packs], starts[packs]
    boundaries = np.concatenate([[0], np.cumsum(sizes)])
    inside = np.arange(len(order)) - np.repeat(boundaries[:-1], sizes)
    return PackPlan(order[np.repeat(starts, sizes) + inside].astype(np.int64), boundaries.astype(np.int64))
