"""Rows of tables: comma-separated files, workbooks, Parquet."""

from __future__ import annotations

import bisect
import contextlib
import csv
import functools
import re
from collections.abc import Callable, Iterator
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from xtuner.dataset.reading.files import Mark, Row, RowsFile, Scanned, without_filled
from xtuner.dataset.reading.json_files import is_wide, not_utf8
from xtuner.errors import DataError
from xtuner.extras import install_extra
from xtuner.language import translate
from xtuner.log import say_once

SEPARATORS = ",;\t|"
_LOOKED_AT = 20
"""Lines that are read to find the separator of a table."""

_LINE = re.compile(r"[^\r\n]*(?:\r\n|[\r\n])|[^\r\n]+")

Cells = Iterator[tuple[int, list[Any]]]


class TableFile(RowsFile):
    """Rows of a table: the first line names the fields; `read_table` yields (line, cells) of the file."""

    def __init__(self, read_table: Callable[[RowsFile], Cells], path: Path, name: str = "") -> None:
        super().__init__(path, name)
        self._read_table = read_table
        self._rows: list[Row | DataError] | None = None
        self._lines: list[int] = []

    def __iter__(self) -> Iterator[Row]:
        return map(self.read, range(len(self)))

    def scan(self, start: Mark) -> Iterator[Scanned]:
        for number in range(start.at, len(self)):
            yield Scanned(functools.partial(self.read, number), Mark(number), Mark(number + 1))

    def __len__(self) -> int:
        return len(self._load())

    def read(self, row: int) -> Row:
        loaded = self._load()[row]
        if isinstance(loaded, DataError):
            raise loaded
        return loaded

    def line(self, row: int) -> int:
        self._load()
        return self._lines[row]

    def _load(self) -> list[Row | DataError]:
        if self._rows is None:
            table = self._read_table(self)
            _, names = next(table, (1, []))
            rows: list[Row | DataError] = []
            for line, cells in table:
                if all(cell in (None, "") for cell in cells):
                    continue
                self._lines.append(line)
                if len(cells) > len(names):
                    counts = {"cells": len(cells), "names": len(names)}
                    rows.append(
                        DataError(
                            translate(
                                "{name} line {line}: {cells} cells, but {names} names in line 1",
                                name=self.name,
                                line=line,
                                **counts,
                            )
                        )
                    )
                    continue
                cells = [*cells, *[None] * (len(names) - len(cells))]
                rows.append(
                    {str(name): cell for name, cell in zip(names, cells, strict=True) if name is not None}
                )
            self._rows = rows
        return self._rows


class ParquetFile(RowsFile):
    """Rows of a Parquet file."""

    place_text = "{name} row {line}"
    _group: tuple[int, list[Row]] | None = None  # number and rows of the row group last read

    def __iter__(self) -> Iterator[Row]:
        for found in self.scan(Mark()):
            yield found.read()

    def scan(self, start: Mark) -> Iterator[Scanned]:
        number = 0
        with self._opened() as table:
            for group in range(table.num_row_groups):
                end = number + table.metadata.row_group(group).num_rows
                if end > start.at:
                    for batch in table.iter_batches(batch_size=1000, row_groups=[group]):
                        for row in batch.to_pylist():
                            if number >= start.at:
                                read = functools.partial(without_filled, row)
                                yield Scanned(read, Mark(number), Mark(number + 1))
                            number += 1
                number = end

    def __len__(self) -> int:
        with self._opened() as table:
            return table.metadata.num_rows

    def read(self, row: int) -> Row:
        with self._opened() as table:
            sizes = [table.metadata.row_group(n).num_rows for n in range(table.num_row_groups)]
            ends = list(accumulate(sizes))
            number = bisect.bisect_right(ends, row)
            if self._group is None or self._group[0] != number:
                self._group = (number, table.read_row_group(number).to_pylist())
        return without_filled(self._group[1][row - ends[number] + sizes[number]])

    def line(self, row: int) -> int:
        return row + 1

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        import pyarrow
        import pyarrow.parquet

        self.check()
        try:
            yield pyarrow.parquet.ParquetFile(self.path)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(
                translate(
                    "{name}: not a Parquet file, or a damaged one: {error}", name=self.name, error=error
                )
            ) from None


def read_csv(file: RowsFile) -> Cells:
    """Line number and cells of each line of a CSV file in UTF-8 with any known separator."""
    with file.opened() as opened:
        content = opened.read()
    if is_wide(content):
        raise not_utf8(file, 1, 0)
    try:
        words = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(file, content.count(b"\n", 0, error.start) + 1, 0) from None
    del content  # it may hold images
    # A cell may be longer than the module's limit of 128 KiB.
    limit = csv.field_size_limit(max(len(words), 1 << 17))
    reader = None
    try:
        reader = csv.reader(_lines(words), delimiter=separator(words, file.name, file.path.suffix))
        start = 1
        for cells in reader:
            yield start, list(cells)
            start = reader.line_num + 1
    except csv.Error as error:
        line = 1 if reader is None else reader.line_num
        raise DataError(
            translate("{name} line {line}: broken CSV: {error}", name=file.name, line=line, error=error)
        ) from None
    finally:
        csv.field_size_limit(limit)


def _lines(words: str) -> Iterator[str]:
    """The lines of `words`: a copy of all of them, as in StringIO, takes four bytes a letter."""
    # Not str.splitlines, which also splits at other characters inside a cell.
    return (match.group() for match in _LINE.finditer(words))


def separator(words: str, name: str, suffix: str) -> str:
    """The separator that gives all lines equally many cells, at least two; else one that splits line 1."""
    usual = "\t" if suffix == ".tsv" else ","
    candidates: list[tuple[bool, int, str]] = []
    for mark in usual + SEPARATORS.replace(usual, ""):
        lines = csv.reader(_lines(words), delimiter=mark)
        counts = [len(cells) for cells in islice(lines, _LOOKED_AT) if cells]
        if counts and counts[0] > 1:
            candidates.append((len(set(counts)) > 1, len(candidates), mark))
    best = min(candidates)[2] if candidates else usual
    if best != usual:
        say_once("cells of {name} are separated by {separator!r}", name=name, separator=best)
    return best


def read_xlsx(file: RowsFile) -> Cells:
    """Line number and cells of each line of a workbook's first sheet."""
    try:
        import openpyxl
    except ImportError:
        raise DataError(
            translate(
                "{name}: reading .xlsx needs openpyxl: {command}, or save the sheet as .csv",
                name=file.name,
                command=install_extra("excel"),
            )
        ) from None
    file.check()
    with damage_named(file.name):
        book = openpyxl.load_workbook(file.path, read_only=True, data_only=True)
        try:
            for number, cells in enumerate(book.worksheets[0].iter_rows(values_only=True), start=1):
                yield number, list(cells)
        finally:
            book.close()


@contextlib.contextmanager
def damage_named(name: str) -> Iterator[None]:
    """Raise DataError with the name of a workbook for any error of reading it."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # zip, XML and openpyxl each raise different errors
        raise DataError(
            translate("{name}: not a workbook, or a damaged one: {error}", name=name, error=error)
        ) from None
