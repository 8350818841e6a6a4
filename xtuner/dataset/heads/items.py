"""Items of samples with what the store knows of them.

classification   sample_labels [1, 0, 2]                  one for each sample, or a row of zeros and ones
embedding        group_sizes [2, 3]                       anchor, positive | anchor, positive, negative
stepwise         labels [-100 -100 1 -100 0]              1 at the end of a right step, 0 of a wrong one
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xtuner.dataset.encoding import fingerprint
from xtuner.dataset.items import packing
from xtuner.dataset.items.packed_dataset import Item, PackedDataset, checked_index
from xtuner.dataset.items.store import TokenStore
from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.utils import IGNORE_INDEX


class LabelledDataset(PackedDataset):
    """Items with `sample_labels`, by the names `label_names`."""

    def __init__(
        self, store: TokenStore, plan: packing.PackPlan, stats: Any, place: Any, label_names: Sequence[str]
    ) -> None:
        super().__init__(store, plan, stats, place)
        self.label_names = list(label_names)
        self._labels = store.column("labels")
        self.key = _with(self.key, self._labels[plan.order], self.label_names)

    def __getitem__(self, index: int) -> Item:
        samples = self.plan[checked_index(index, len(self))]
        labels = np.array(self._labels[samples])
        return {**super().__getitem__(index), "sample_labels": labels, "label_names": self.label_names}


class GroupedDataset(PackedDataset):
    """Items with `group_sizes`: the number of samples of each group."""

    def __init__(self, store: TokenStore, plan: packing.PackPlan, stats: Any, place: Any) -> None:
        super().__init__(store, plan, stats, place)
        self._groups = store.column("groups")
        self.key = _with(self.key, self._groups[plan.order])

    def __getitem__(self, index: int) -> Item:
        groups = self._groups[self.plan[checked_index(index, len(self))]].astype(np.int64)
        starts = np.flatnonzero(np.diff(groups, prepend=-1))
        return {**super().__getitem__(index), "group_sizes": np.diff(starts, append=len(groups)).tolist()}


class StepwiseDataset(PackedDataset):
    """Items whose `labels` are 1 at the ends of right steps, 0 at those of wrong ones, else -100."""

    def __init__(self, store: TokenStore, plan: packing.PackPlan, stats: Any, place: Any) -> None:
        super().__init__(store, plan, stats, place)
        self._steps = store.column("steps")
        self._ends = np.cumsum(store.column("step_counts"), dtype=np.int64)
        self.key = _with(self.key, self._steps)

    def __getitem__(self, index: int) -> Item:
        item = super().__getitem__(index)
        labels = np.full_like(item["labels"], IGNORE_INDEX)
        ends = np.flatnonzero(item["labels"] != IGNORE_INDEX)
        samples = self.plan[checked_index(index, len(self))]
        starts = np.concatenate([[0], self._ends])[samples]
        found = [self._steps[a:b] for a, b in zip(starts, self._ends[samples], strict=True)]
        labels[ends] = np.concatenate(found)
        return {**item, "labels": labels}


def label_names_of(items: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the labels of all `items`; ConfigError if they differ."""
    first = list(items[0]["label_names"])
    for item in items:
        if list(item["label_names"]) != first:
            what = "the data sets have the labels {first} and {other}: give all data sets the same labels"
            raise ConfigError(translate(what, first=first, other=list(item["label_names"])))
    return first


def _with(key: str, numbers: np.ndarray, *more: Any) -> str:
    return fingerprint.fingerprint_value([key, np.ascontiguousarray(numbers).tobytes(), *more])
