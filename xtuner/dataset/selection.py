"""Which rows are used, and where each of them stands.

{"train": A, "test": B}, split "train", at most 2    ->  rows 0 and 5 of A
split None                                           ->  all rows of A, then all of B
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xtuner.dataset.rows import FileRows
from xtuner.errors import DataError, did_you_mean

Row = Mapping[str, Any]

_SLICE = 1000


@dataclass(frozen=True)
class Selection:
    """The rows to use of some sources; row numbers count from 0 through all sources."""

    sources: Sequence[Any]
    taken: np.ndarray | None = None  # the numbers of the rows to use, in order; None for all

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        """Number and content of each row."""
        if self.taken is None:
            yield from enumerate(row for source in self.sources for row in _iterate(source))
        else:
            yield from ((number, self.row(number)) for number in self.taken.tolist())

    def __len__(self) -> int:
        return sum(map(len, self.sources)) if self.taken is None else len(self.taken)

    def quick_len(self) -> int | None:
        """The number of rows, or None where a file would have to be parsed to know it."""
        if any(isinstance(source, FileRows) and not source.is_counted for source in self.sources):
            return None
        return len(self)

    def row(self, number: int) -> Row:
        """The content of one row."""
        source, inner = self._find(number)
        return source[inner]

    def place(self, number: int) -> str:
        """Where a row stands, for messages: `data.json line 12`, or its number where there is no file."""
        source, inner = self._find(number)
        return source.place(inner) if isinstance(source, FileRows) else f"row {inner} (counted from 0)"

    def _find(self, number: int) -> tuple[Any, int]:
        inner = number
        for source in self.sources:
            if inner < len(source):
                return source, inner
            inner -= len(source)
        raise IndexError(f"row {number} of {len(self)}")


def take_split(dataset: Any, split: str | None) -> Selection:
    """The rows of one split, or of all; data that has no splits is taken as it is."""
    if isinstance(dataset, Mapping):
        if split is not None and split not in dataset:
            raise DataError(
                f"the data has no split {split!r}; it has {', '.join(map(repr, dataset))}."
                f"{did_you_mean(split, dataset)}"
            )
        return Selection(list(dataset.values()) if split is None else [dataset[split]])
    if isinstance(dataset, (str, bytes)) or not hasattr(dataset, "__getitem__"):
        raise DataError(
            f"rows must come as a list, a data set or those by split, not as {type(dataset).__name__}; "
            "for a file write dataset = dict(type=load_dataset, path='data.json')"
        )
    return Selection([dataset])


def take_some(rows: Selection, max_rows: int | None, seed: int) -> Selection:
    """At most `max_rows` of the rows, picked at random by `seed` and left in their order."""
    if max_rows is None or len(rows) <= max_rows:
        return rows
    picked = np.random.default_rng(seed).choice(len(rows), max_rows, replace=False)
    return Selection(rows.sources, np.sort(picked))


def _iterate(source: Any) -> Iterator[Row]:
    """The rows of a source; those of an Arrow table a slice at a time, which is ten times faster."""
    if not hasattr(source, "column_names"):
        yield from source
        return
    for start in range(0, len(source), _SLICE):
        columns = source[start : start + _SLICE]
        for cells in zip(*columns.values(), strict=True):
            yield dict(zip(columns, cells, strict=True))
