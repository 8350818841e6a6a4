"""What training reads: item i is one row of tokens, made of the samples that the pack plan puts there.

samples  a a a | b b | c c c c      plan [[0, 1], [2]]
item 0   input_ids [a a a b b], labels [-100 a a -100 b], cumulative_len [0, 3, 5]
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from xtuner.dataset.encode import labels_of
from xtuner.dataset.packing import PackPlan
from xtuner.dataset.store import TokenStore
from xtuner.errors import DataError
from xtuner.utils import IGNORE_INDEX

Item = dict[str, Any]


class PackedDataset:
    """Items of token ids, labels and the borders of the samples inside.

    `length` holds the number of tokens of each item, `key` names data, settings and plan in one hash, and
    `stats` counts what became of the rows. `columns(row)` adds a source row's other fields to its item, and
    `place(row)` tells where the row stands.
    """

    def __init__(
        self,
        store: TokenStore,
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
        self._place = place
        self._columns = columns

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> Item:
        index = _checked_index(index, len(self))
        samples = [self.store.sample(sample) for sample in self.plan[index]]
        ids = np.concatenate([ids for ids, _ in samples])
        trained = np.concatenate([trained for _, trained in samples])
        borders = [0, *itertools.accumulate(len(ids) for ids, _ in samples)]
        item = {
            "input_ids": ids,
            "labels": labels_of(ids, trained, IGNORE_INDEX),
            "cumulative_len": borders,
        }
        if self._columns is not None:
            (row,) = set(self.source_rows(index))
            item = {**self._columns(row), **item}
        return item

    def source_rows(self, index: int) -> list[int]:
        """The row numbers of the source, counted from 0, that item `index` is made of."""
        return self.store.rows[self.plan[_checked_index(index, len(self))]].tolist()

    def source_places(self, index: int) -> list[str]:
        """Where those rows stand, for messages, such as `data.json line 12`."""
        place = self._place or (lambda row: f"row {row}")
        return [place(row) for row in self.source_rows(index)]


class ConcatDataset:
    """Several data sets one after the other, as one."""

    def __init__(self, datasets: Sequence[Any]) -> None:
        if not datasets:
            raise DataError("ConcatDataset needs at least one data set: datasets=[...]")
        self.datasets = list(datasets)
        self._ends = list(itertools.accumulate(map(len, self.datasets)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Item:
        dataset, inner = self._find(index)
        return dataset[inner]

    @property
    def length(self) -> np.ndarray:
        """The number of tokens of each item."""
        return np.concatenate([np.asarray(dataset.length) for dataset in self.datasets])

    @property
    def modality_length(self) -> np.ndarray:
        """As `length`, negative for items without a picture, where the data sets tell."""
        return np.concatenate([np.asarray(dataset.modality_length) for dataset in self.datasets])

    @property
    def key(self) -> str:
        """One hash over the keys of all."""
        keys = "\n".join(dataset.key for dataset in self.datasets)
        return hashlib.blake2b(keys.encode(), digest_size=16).hexdigest()

    @property
    def stats(self) -> dict[str, Any]:
        """The counts of all together, and the shares that follow from them."""
        all_stats = [dataset.stats for dataset in self.datasets]
        total = functools.reduce(_added, all_stats)
        filled = sum(stats["fill"] * stats["packs"] for stats in all_stats)
        return {
            **total,
            "trained_share": total["trained"] / total["tokens"],
            "fill": filled / total["packs"],
        }

    def source_rows(self, index: int) -> list[int]:
        """The row numbers that item `index` is made of, counted in its own data set."""
        dataset, inner = self._find(index)
        return dataset.source_rows(inner)

    def source_places(self, index: int) -> list[str]:
        """Where those rows stand, for messages."""
        dataset, inner = self._find(index)
        return dataset.source_places(inner)

    def _find(self, index: int) -> tuple[Any, int]:
        index = _checked_index(index, len(self))
        number = bisect_right(self._ends, index)
        return self.datasets[number], index - (self._ends[number - 1] if number else 0)


def _checked_index(index: int, count: int) -> int:
    if not -count <= index < count:
        raise IndexError(f"item {index} of {count}")
    return index % count


def _plan_key(store: TokenStore, plan: PackPlan) -> str:
    digest = hashlib.blake2b(store.content_hash.encode(), digest_size=16)
    digest.update(plan.order.tobytes())
    digest.update(plan.borders.tobytes())
    return digest.hexdigest()


def _added(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Counts added up and lists joined, key by key, also in mappings inside."""
    total = dict(a)
    for name, value in b.items():
        if name not in total:
            total[name] = value
        elif isinstance(value, Mapping):
            total[name] = _added(total[name], value)
        else:
            total[name] = total[name] + value
    return total
