"""The data set that training reads: item i is one pack of the pack plan.

samples  a a a | b b | c c c c      plan [[0, 1], [2]]
item 0   input_ids [a a a b b], labels [-100 a a -100 b], cumulative_len [0, 3, 5]
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from xtuner.dataset.encoding.conversations import labels_of
from xtuner.dataset.items.packing import PackPlan
from xtuner.utils import IGNORE_INDEX

Item = dict[str, Any]


class Samples(Protocol):
    """The samples that items are made of: a TokenStore or the like."""

    @property
    def lengths(self) -> np.ndarray: ...
    @property
    def rows(self) -> np.ndarray: ...
    @property
    def content_hash(self) -> str: ...
    def __len__(self) -> int: ...
    def sample(self, index: int) -> tuple[np.ndarray, np.ndarray]: ...


class PackedDataset:
    """Items of token ids, labels and the boundaries of the samples inside.

    `length` holds the number of tokens of each item, `key` names data, settings and plan in one hash, and
    `stats` counts the rows used, cut and dropped. `columns(row)` adds a source row's other fields to its
    item, and `place(row)` is the position of the row.
    """

    def __init__(
        self,
        store: Samples,
        plan: PackPlan,
        stats: Mapping[str, Any],
        place: Callable[[int], str] | None = None,
        columns: Callable[[int], Mapping[str, Any]] | None = None,
    ) -> None:
        self.store = store
        self.plan = plan
        self.stats = dict(stats)
        self.length = plan.lengths(store.lengths)
        self.key = _plan_key(store, plan)
        self.place = place or (lambda row: f"row {row}")
        self._columns = columns

    @property
    def sample_lengths(self) -> np.ndarray:
        """The number of tokens of each sample."""
        return np.asarray(self.store.lengths)

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> Item:
        index = checked_index(index, len(self))
        samples = [self.store.sample(sample) for sample in self.plan[index]]
        ids = np.concatenate([ids for ids, _ in samples])
        mask = np.concatenate([mask for _, mask in samples])
        boundaries = [0, *itertools.accumulate(len(ids) for ids, _ in samples)]
        item = {
            "input_ids": ids,
            "labels": labels_of(ids, mask, IGNORE_INDEX),
            "cumulative_len": boundaries,
        }
        if self._columns is not None:
            (row,) = set(self.source_rows(index))
            item = {**self._columns(row), **item}
        return item

    def row(self, number: int) -> Mapping[str, Any]:
        """The fields of a source row, in data sets that have been given `columns`."""
        assert self._columns is not None
        return self._columns(number)

    def source_rows(self, index: int) -> list[int]:
        """The numbers of the source rows of item `index`, counted from 0."""
        return self.store.rows[self.plan[checked_index(index, len(self))]].tolist()

    def source_places(self, index: int) -> list[str]:
        """The positions of those rows, for messages, such as `data.json line 12`."""
        return [self.place(row) for row in self.source_rows(index)]


def checked_index(index: int, count: int) -> int:
    """`index` as a non-negative number; IndexError if there are not so many items."""
    if not -count <= index < count:
        raise IndexError(f"item {index} of {count}")
    return index % count


def _plan_key(store: Samples, plan: PackPlan) -> str:
    digest = hashlib.blake2b(store.content_hash.encode(), digest_size=16)
    digest.update(plan.order.tobytes())
    digest.update(plan.boundaries.tobytes())
    return digest.hexdigest()
