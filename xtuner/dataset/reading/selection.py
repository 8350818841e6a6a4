"""The rows to use, and the position of each.

{"train": A, "test": B}, split "train", at most 2    ->  rows 0 and 5 of A
split None                                           ->  all rows of A, then all of B
held out 0.05                                        ->  1 row of 20; equal rows are on the same side
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from xtuner.dataset.reading.files import FileRows, Mark, without_filled
from xtuner.errors import DataError, did_you_mean
from xtuner.language import translate

Row = Mapping[str, Any]

_SLICE = 1000


class Cursor(NamedTuple):
    """A position between two rows of some sources, from which reading can resume; plain numbers."""

    source: int = 0
    file: int = 0
    at: int = 0
    line: int = 0
    row: int = 0  # the number of rows of all sources before it


class Found(NamedTuple):
    """An unread row (`read` raises DataError if it is broken), its position, and that of the next."""

    read: Callable[[], Row]
    cursor: Cursor
    next: Cursor


@dataclass(frozen=True)
class Part:
    """The held-out `fraction` of the rows, or all others; equal rows are in the same part."""

    fraction: float
    is_held_out: bool


@dataclass(frozen=True)
class Selection:
    """The rows to use of some sources; row numbers count from 0 through all sources."""

    sources: Sequence[Any]
    taken: np.ndarray | None = None  # the numbers of the rows to use, in order; None for all
    part: Part | None = None  # the part of these to use; None for all

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        """Number and content of each row."""
        for number, read in self.unread():
            yield number, read()

    def unread(self) -> Iterator[tuple[int, Callable[[], Row]]]:
        """Number of each row and a function that reads it, or raises DataError if it is broken."""
        if self.part is None:
            yield from self._both_parts()
            return
        sides = _held_out(self._both_parts(), self.part.fraction)
        for (number, read), is_held_out in zip(self._both_parts(), sides.tolist(), strict=True):
            if is_held_out == self.part.is_held_out:
                yield number, read

    def _both_parts(self) -> Iterator[tuple[int, Callable[[], Row]]]:
        if self.taken is None:
            yield from ((found.cursor.row, found.read) for found in scan(self.sources))
        else:
            yield from ((number, functools.partial(self.row, number)) for number in self.taken.tolist())

    def __len__(self) -> int:
        """The number of rows of both parts."""
        return sum(map(len, self.sources)) if self.taken is None else len(self.taken)

    def quick_len(self) -> int | None:
        """The number of rows, or None if a file would have to be parsed to count them."""
        if self.part is not None or any(
            isinstance(source, FileRows) and not source.is_counted for source in self.sources
        ):
            return None
        return len(self)

    def row(self, number: int) -> Row:
        """The content of one row."""
        source, inner = self._find(number)
        return without_filled(source[inner]) if _is_arrow(source) else source[inner]

    def place(self, number: int) -> str:
        """The position of a row, for messages: `data.json line 12`, or its number if there is no file."""
        source, inner = self._find(number)
        return source.place(inner) if isinstance(source, FileRows) else _nth(inner)

    def check_content(self) -> None:
        """DataError if a file no longer has the content of its fingerprint."""
        for source in self.sources:
            if isinstance(source, FileRows):
                source.check_content()

    def _find(self, number: int) -> tuple[Any, int]:
        inner = number
        for source in self.sources:
            if inner < len(source):
                return source, inner
            inner -= len(source)
        raise IndexError(f"row {number} of {len(self)}")


def take_split(dataset: Any, split: str | None) -> Selection:
    """The rows of one split, or of all splits if None; data without splits is used whole."""
    if isinstance(dataset, Mapping):
        if split is not None and split not in dataset:
            raise DataError(
                translate(
                    "the data has no split {split!r}; it has {names}.{hint}",
                    split=split,
                    names=", ".join(map(repr, dataset)),
                    hint=did_you_mean(split, dataset),
                )
            )
        sources = list(dataset.values()) if split is None else [dataset[split]]
    else:
        sources = [dataset]
    for source in sources:
        _check_source(source)
    return Selection(sources)


def _check_source(source: Any) -> None:
    if isinstance(source, (str, bytes)) or not hasattr(source, "__iter__"):
        raise DataError(
            translate(
                "rows must be a list, a data set or a dict of splits, not {kind}; for a file write "
                "dataset = dict(type=load_dataset, path='data.json')",
                kind=type(source).__name__,
            )
        )
    if not hasattr(source, "__len__"):
        raise DataError(
            translate(
                "{kind} gives its rows only in sequence, so a run cannot be resumed: leave "
                "streaming=True out of load_dataset, and set it in process_hf_dataset",
                kind=type(source).__name__,
            )
        )


def take_some(rows: Selection, max_rows: int | None, seed: int) -> Selection:
    """At most `max_rows` of the rows, picked at random by `seed`, in their order."""
    if max_rows is None or len(rows) <= max_rows:
        return rows
    picked = np.random.default_rng(seed).choice(len(rows), max_rows, replace=False)
    return Selection(rows.sources, np.sort(picked))


def _held_out(rows: Iterator[tuple[int, Callable[[], Row]]], fraction: float) -> np.ndarray:
    """Whether each row is held out: a `fraction` of the distinct rows, those with the smallest hashes."""
    hashes = np.fromiter((_hash(read) for _, read in rows), np.uint64)
    distinct = np.unique(hashes)
    if len(distinct) < 2:
        raise DataError(
            translate(
                "none of {count} rows can be held out for validation: they are all the same",
                count=len(hashes),
            )
        )
    count = min(max(1, round(fraction * len(distinct))), len(distinct) - 1)
    return hashes <= distinct[count - 1]


def _hash(read: Callable[[], Row]) -> int:
    try:
        text = json.dumps(read(), sort_keys=True, default=_as_plain)
    except DataError:
        return 2**64 - 1  # a broken row is reported with the training rows
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _as_plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else type(value).__name__


def scan(sources: Sequence[Any], start: Cursor = Cursor()) -> Iterator[Found]:  # noqa: B008
    """The rows of the sources from `start` on, in order."""
    row = start.row
    for number, source in enumerate(sources[start.source :], start.source):
        begin = start if number == start.source else Cursor(number)
        for file, scan_file in enumerate(_files(source)[begin.file :], begin.file):
            mark = Mark(begin.at, begin.line) if file == begin.file else Mark()
            for read, at, after in scan_file(mark):
                cursor = Cursor(number, file, at.at, at.line, row)
                yield Found(read, cursor, Cursor(number, file, after.at, after.line, row + 1))
                row += 1


def _nth(number: int) -> str:
    return translate("row {number}", number=number) + translate(" (counted from 0)")


def place_at(sources: Sequence[Any], cursor: Cursor) -> str:
    """The position of the row at `cursor`, for messages."""
    source = sources[cursor.source]
    if not isinstance(source, FileRows):
        return _nth(cursor.at)
    return source.files[cursor.file].place_at(Mark(cursor.at, cursor.line))


def _files(source: Any) -> list[Callable[[Mark], Iterator[Any]]]:
    """A function for each file of a source, which yields the rows from a mark on."""
    if isinstance(source, FileRows):
        return [file.scan for file in source.files]
    return [functools.partial(_scan_sequence, source)]


def _scan_sequence(source: Any, start: Mark) -> Iterator[tuple[Callable[[], Row], Mark, Mark]]:
    for number, row in enumerate(_iterate(source, start.at), start.at):
        yield functools.partial(_same, row), Mark(number), Mark(number + 1)


def _same(row: Row) -> Row:
    return row


def _is_arrow(source: Any) -> bool:
    return hasattr(source, "column_names")


def _iterate(source: Any, start: int) -> Iterator[Row]:
    """The rows of a source from `start` on; Arrow tables in slices, which is ten times faster."""
    if not _is_arrow(source):
        yield from (source[number] for number in range(start, len(source)))
        return
    for first in range(start, len(source), _SLICE):
        columns = source[first : first + _SLICE]
        for cells in zip(*columns.values(), strict=True):
            yield without_filled(dict(zip(columns, cells, strict=True)))
