"""Rows of files, read on request, each with its file and line.

    data.jsonl   {"a": 1}            rows[0] -> {"a": 1}, rows.place(0) -> "data.jsonl line 1"
                                     (an empty line counts as a line but not as a row)
                 {"a": 2}            rows[1] -> {"a": 2}, rows.place(1) -> "data.jsonl line 3"

A file is not kept in memory as Python objects: iterating parses row by row, and random access or positions
need one offset per row.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from xtuner.errors import DataError
from xtuner.language import translate
from xtuner.log import say_once

Row = dict[str, Any]


class Mark(NamedTuple):
    """A position between two rows of a file: its byte and the lines before it, or the rows before it."""

    at: int = 0
    line: int = 0


class Scanned(NamedTuple):
    """An unread row (`read` raises DataError if it is broken), its position, and that of the next."""

    read: Callable[[], Row]
    mark: Mark
    next: Mark


class FileRows(Sequence):
    """The rows of one or more files, one after the other."""

    def __init__(self, files: Sequence[RowsFile]) -> None:
        self.files = list(files)

    def __len__(self) -> int:
        return sum(map(len, self.files))

    def __iter__(self) -> Iterator[Row]:
        for file in self.files:
            yield from file

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        file, row = self._find(index)
        return file.read(row)

    @property
    def is_counted(self) -> bool:
        """Whether the number of rows is known without parsing a whole file."""
        return all(file.is_counted for file in self.files)

    def place(self, index: int) -> str:
        """The position of row `index`, for messages: `data.json line 12`."""
        file, row = self._find(index)
        return file.place(row)

    @property
    def name(self) -> str:
        """The names of the files, for messages."""
        return ", ".join(file.name for file in self.files)

    def fingerprint(self) -> str:
        """A hash of the content of all files."""
        return hashlib.blake2b(b"".join(file.digest() for file in self.files), digest_size=16).hexdigest()

    def check_content(self) -> None:
        """DataError if a file no longer has the content of `fingerprint`."""
        for file in self.files:
            file.check_content()

    def __repr__(self) -> str:
        return f"FileRows({self.name})"

    def _find(self, index: int) -> tuple[RowsFile, int]:
        ends = list(accumulate(map(len, self.files)))
        total = ends[-1] if ends else 0
        if not -total <= index < total:
            raise IndexError(f"row {index} of {total}")
        index %= total
        number = bisect.bisect_right(ends, index)
        return self.files[number], index - (ends[number - 1] if number else 0)


AT_LINE = "{name} line {line}"


class RowsFile(ABC):
    """One file of rows; messages call it `name`, as `path` may be a copy."""

    is_counted = True
    place_text = AT_LINE

    _digest: bytes | None = None

    def __init__(self, path: Path, name: str = "") -> None:
        self.path = path
        self.name = name or str(path)
        self._size, self._written = self._state()

    def _state(self) -> tuple[int, int]:
        state = os.stat(self.path)
        return state.st_size, state.st_mtime_ns

    def check(self) -> None:
        """DataError if the size of the file has changed since it was opened first.

        A file of the same size that was written to is only logged: it may be a fresh copy of the same file.
        """
        size, written = self._state()
        if size != self._size:
            raise DataError(
                translate(
                    "{name} changed during the run, from {old:,} to {new:,} bytes: restore it and "
                    "continue with --resume, or start a new run",
                    name=self.name,
                    old=self._size,
                    new=size,
                )
            )
        if written != self._written:
            say_once("{name} was written to during the run; its size is the same as before", name=self.name)

    @contextlib.contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """The file opened for reading; its size is checked before and, without an error, after."""
        self.check()
        with open(self.path, "rb") as file:
            yield file
        self.check()

    def digest(self) -> bytes:
        """A hash of the content at the first call."""
        if self._digest is None:
            self._digest = self._read_digest()
        return self._digest

    def check_content(self) -> None:
        """DataError if the content is no longer that of `digest`."""
        if self._read_digest() != self.digest():
            raise DataError(translate("{name} changed while it was read: start again", name=self.name))

    def _read_digest(self) -> bytes:
        content = hashlib.blake2b(self.path.suffix.encode(), digest_size=16)
        with self.opened() as file:
            while block := file.read(1 << 20):
                content.update(block)
        return content.digest()

    @abstractmethod
    def __iter__(self) -> Iterator[Row]: ...

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, row: int) -> Row:
        """Row number `row`, counting from 0."""

    @abstractmethod
    def line(self, row: int) -> int:
        """The line at which that row begins, counting from 1."""

    def lines(self) -> Iterator[int]:
        """The line at which each row begins."""
        return map(self.line, range(len(self)))

    def scan(self, start: Mark) -> Iterator[Scanned]:
        """The rows from `start` on, each parsed on request if the format allows."""
        for number, row in enumerate(islice(self, start.at, None), start.at):
            yield Scanned(functools.partial(same, row), Mark(number), Mark(number + 1))

    def place(self, row: int) -> str:
        """The position of that row, for messages: `data.json line 12`."""
        return translate(self.place_text, name=self.name, line=self.line(row))

    def place_at(self, mark: Mark) -> str:
        """The position of the row at `mark`, for messages."""
        return self.place(mark.at)


def checked(value: Any, place: Callable[[], str]) -> Row:
    """The value as a row; DataError with its position if it is not an object."""
    if isinstance(value, dict):
        return value
    raise DataError(
        translate(
            "{place}: a row must be an object such as {{...}}; this is {value:.60}",
            place=place(),
            value=json.dumps(value, ensure_ascii=False),
        )
    )


def same(row: Row) -> Row:
    """The row: the `read` of a row that is parsed already."""
    return row


def without_filled(row: Row) -> Row:
    """A row of an Arrow table without the keys that Arrow filled in.

        {"call": {"city": "P", "unit": None}}  ->  {"call": {"city": "P"}}

    Arrow gives all objects of a column the same keys, with null for those that only other rows have.
    Columns themselves are kept.
    """
    return {name: _without_null(value) for name, value in row.items()}


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(inner) for key, inner in value.items() if inner is not None}
    return [_without_null(inner) for inner in value] if isinstance(value, list) else value
