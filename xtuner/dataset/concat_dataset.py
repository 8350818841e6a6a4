"""Several data sets as one: concatenated, mixed by weights, or packed together.

    datasets A (4 items) and B (2)     items
    -                                  A0 A1 A2 A3 | B0 B1
    epochs=[1, 2.5]                    A0 A1 A2 A3 | B0 B1 B0 B1 B1
    num_samples=[3, 2]                 A0 A2 A3 | B0 B1
    weights=[1, 1]                     A0 A1 A3 | B0 B1 B0          the same total, half of each
    max_length=9                       (A0 B1 A3) (B0 A1) (A2)      packs of whole items

The seed alone decides which items are left out or repeated.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xtuner.dataset.heads.items import label_names_of
from xtuner.dataset.items.packed_dataset import Item, checked_index
from xtuner.dataset.items.packing import PackPlan, plan_packs, plan_single
from xtuner.dataset.items.streamed import Stream
from xtuner.errors import ConfigError, DataError
from xtuner.language import translate


class ConcatDataset:
    """Several data sets one after the other, as one.

    `epochs`: how often each is read; `num_samples`: the number of items of each; `weights`: the fractions of
    each, for which `num_samples` may be the total. `max_length` packs the items of all data sets into packs
    of at most that many tokens: set pack_to_max_length = False in the data sets then, so that items are
    samples.
    """

    def __init__(
        self,
        datasets: Sequence[Any],
        weights: Sequence[float] | None = None,
        epochs: Sequence[float] | None = None,
        num_samples: Sequence[int] | int | None = None,
        max_length: int | None = None,
        seed: int = 0,
    ) -> None:
        if not datasets:
            raise DataError(translate("ConcatDataset needs at least one data set: datasets=[...]"))
        self.datasets = list(datasets)
        if any(isinstance(dataset, Stream) for dataset in self.datasets):
            raise ConfigError(
                translate(
                    "ConcatDataset cannot count the items of data sets with streaming = True: mix them "
                    "with dict(type=MixedStream, datasets=[...], weights=[...]) of xtuner.dataset"
                )
            )
        sizes = [len(dataset) for dataset in self.datasets]
        counts = _counts(sizes, weights, epochs, num_samples)
        random = np.random.default_rng(seed)
        self._picks = [_pick(size, count, random) for size, count in zip(sizes, counts, strict=True)]
        self._is_mixed = counts != sizes
        self._ends = list(itertools.accumulate(counts))
        self._plan = self._plan_packs(max_length, seed)
        self._max_length = max_length

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: int) -> Item:
        numbers = self._plan[checked_index(index, len(self))].tolist()
        if self._max_length is None:
            dataset, inner = self._find(numbers[0])
            return dataset[inner]
        return _joined([dataset[inner] for dataset, inner in map(self._find, numbers)])

    @property
    def length(self) -> np.ndarray:
        """The number of tokens of each item."""
        return self._plan.lengths(self._picked("length"))

    @property
    def modality_length(self) -> np.ndarray:
        """As `length`, negative for items without an image, if the data sets have it."""
        if self._max_length is not None:
            raise DataError(
                translate("items with images cannot be packed: leave out ConcatDataset(max_length=...)")
            )
        return self._picked("modality_length")

    @property
    def key(self) -> str:
        """A hash of the keys of all data sets and of the items taken from each."""
        digest = hashlib.blake2b("\n".join(dataset.key for dataset in self.datasets).encode(), digest_size=16)
        if self._is_mixed or self._max_length is not None:
            for pick in self._picks:
                digest.update(pick.tobytes() + b"|")
            digest.update(self._plan.order.tobytes() + self._plan.boundaries.tobytes())
        return digest.hexdigest()

    @property
    def stats(self) -> dict[str, Any]:
        """The summed counts; supervised tokens of a partly used data set by its own fraction."""
        parts = [dataset.stats for dataset in self.datasets]
        total = functools.reduce(_added, parts)
        tokens = [
            np.asarray(dataset.length)[pick].sum()
            for dataset, pick in zip(self.datasets, self._picks, strict=True)
        ]
        supervised = sum(
            part["trained"] * count / part["tokens"] for part, count in zip(parts, tokens, strict=True)
        )
        packs = len(self)
        if self._max_length is not None:
            fill = sum(tokens) / (packs * self._max_length)
        else:
            pairs = zip(parts, map(len, self._picks), strict=True)
            fill = sum(part["fill"] * count for part, count in pairs) / packs
        return {
            **total,
            "tokens": int(sum(tokens)),
            "trained": round(supervised),
            "packs": packs,
            "trained_share": float(supervised / sum(tokens)),
            "fill": float(fill),
        }

    def source_rows(self, index: int) -> list[int]:
        """The numbers of the rows of item `index`, each within its data set."""
        return [row for dataset, inner in self._parts(index) for row in dataset.source_rows(inner)]

    def source_places(self, index: int) -> list[str]:
        """The positions of those rows, for messages."""
        return [place for dataset, inner in self._parts(index) for place in dataset.source_places(inner)]

    def _plan_packs(self, max_length: int | None, seed: int) -> PackPlan:
        if max_length is None:
            return plan_single(self._ends[-1])
        lengths = self._picked("length")
        if lengths.max(initial=0) > max_length:
            raise DataError(
                translate(
                    "an item of {longest:,} tokens does not fit into "
                    "ConcatDataset(max_length={max_length}): give the data sets the same max_length "
                    "and pack_to_max_length = False",
                    max_length=max_length,
                    longest=lengths.max(),
                )
            )
        return plan_packs(lengths, max_length, seed)

    def _picked(self, name: str) -> np.ndarray:
        pairs = zip(self.datasets, self._picks, strict=True)
        return np.concatenate([np.asarray(getattr(dataset, name))[pick] for dataset, pick in pairs])

    def _parts(self, index: int) -> list[tuple[Any, int]]:
        return [self._find(number) for number in self._plan[checked_index(index, len(self))].tolist()]

    def _find(self, item: int) -> tuple[Any, int]:
        number = bisect_right(self._ends, item)
        return self.datasets[number], int(
            self._picks[number][item - (self._ends[number - 1] if number else 0)]
        )


def _counts(
    sizes: list[int],
    weights: Sequence[float] | None,
    epochs: Sequence[float] | None,
    num_samples: Sequence[int] | int | None,
) -> list[int]:
    """The number of items to take from each data set."""
    total = num_samples if isinstance(num_samples, int) else None
    each = None if isinstance(num_samples, int) else num_samples
    settings = {"weights": weights, "epochs": epochs, "num_samples": each}
    named = [name for name, values in settings.items() if values is not None]
    if len(named) > 1 or (total is not None and weights is None):
        what = (
            translate(" and ").join(named)
            if len(named) > 1
            else translate("num_samples as one number without weights")
        )
        raise ConfigError(
            translate(
                "ConcatDataset got {what}: give one of weights, epochs and num_samples, with one value "
                "for each of the data sets; only weights go with the number of all",
                what=what,
            )
        )
    if not named:
        return sizes
    values = list(settings[named[0]] or [])
    if len(values) != len(sizes) or not all(map(_is_count, values)) or not sum(values):
        raise ConfigError(
            translate(
                "ConcatDataset.{name} is {values}: it needs {count} numbers from 0 up, one for each data set",
                values=values,
                count=len(sizes),
                name=named[0],
            )
        )
    if weights is not None:
        all_items = sum(sizes) if total is None else total
        return _apportioned([all_items * value / sum(values) for value in values], all_items)
    if epochs is not None:
        return [round(size * value) for size, value in zip(sizes, values, strict=True)]
    return [int(value) for value in values]


def _is_count(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def _apportioned(amounts: list[float], total: int) -> list[int]:
    """`amounts` rounded to whole numbers with the sum `total`; the largest fractions are rounded up."""
    counts = [int(amount) for amount in amounts]
    by_fraction = sorted(range(len(amounts)), key=lambda n: counts[n] - amounts[n])
    for number in by_fraction[: total - sum(counts)]:
        counts[number] += 1
    return counts


def _pick(size: int, count: int, random: np.random.Generator) -> np.ndarray:
    """`count` item numbers below `size`: whole repetitions of all, then a random part."""
    if count and not size:
        raise DataError(translate("ConcatDataset cannot take items of an empty data set"))
    whole, rest = divmod(count, size) if size else (0, 0)
    extra = np.sort(random.choice(size, rest, replace=False)) if rest else np.zeros(0, np.int64)
    return np.concatenate([np.tile(np.arange(size, dtype=np.int64), whole), extra])


def _joined(items: list[Item]) -> Item:
    boundaries, end = [0], 0
    for item in items:
        boundaries += [end + boundary for boundary in item["cumulative_len"][1:]]
        end = boundaries[-1]
    of_samples: dict[str, Any] = {
        name: np.concatenate([item[name] for item in items])
        for name in ("desirable", "reference_logprobs", "sample_labels", "group_sizes")
        if all(name in item for item in items)
    }
    if "sample_labels" in of_samples:
        of_samples["label_names"] = label_names_of(items)
    return {
        **of_samples,
        "input_ids": np.concatenate([item["input_ids"] for item in items]),
        "labels": np.concatenate([item["labels"] for item in items]),
        "cumulative_len": boundaries,
    }


def _added(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Counts added and lists joined by key, in nested mappings too."""
    total = dict(a)
    for name, value in b.items():
        if name not in total:
            total[name] = value
        elif isinstance(value, Mapping):
            total[name] = _added(total[name], value)
        else:
            total[name] = total[name] + value
    return total
