"""Rows of files, read when they are asked for, each with its file and line.

    data.jsonl   {"a": 1}            rows[0] -> {"a": 1}, rows.place(0) -> "data.jsonl line 1"
                                     (an empty line counts as a line and is no row)
                 {"a": 2}            rows[1] -> {"a": 2}, rows.place(1) -> "data.jsonl line 3"

A file is not kept in memory as Python objects: iterating parses row by row, and what stays is one offset per
row once random access or a place is asked for.
"""

from __future__ import annotations

import bisect
import codecs
import csv
import functools
import hashlib
import json
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, NamedTuple

from xtuner.errors import DataError
from xtuner.extras import install_extra

Row = dict[str, Any]

_SPACE = " \t\r\n"


class Mark(NamedTuple):
    """A place between two rows of a file: a byte and the lines before it, or the number of rows before it."""

    at: int = 0
    line: int = 0


class Scanned(NamedTuple):
    """A row still to be read (`read` raises DataError if it is broken), its place, and that of the next."""

    read: Callable[[], Row]
    mark: Mark
    next: Mark


class FileRows(Sequence):
    """The rows of one or more files, one after the other."""

    def __init__(self, files: Sequence[_File]) -> None:
        self.files = list(files)

    def __len__(self) -> int:
        return sum(map(len, self.files))

    def __iter__(self) -> Iterator[Row]:
        for file in self.files:
            yield from file

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        file, row = self._find(index)
        return file.read(row)

    @property
    def is_counted(self) -> bool:
        """Whether the number of rows is known without parsing a whole file."""
        return all(file.is_counted for file in self.files)

    def place(self, index: int) -> str:
        """Where row `index` stands, for messages: `data.json line 12`."""
        file, row = self._find(index)
        return f"{file.path} {file.unit} {file.line(row)}"

    @property
    def name(self) -> str:
        """The paths of the files, for messages."""
        return ", ".join(str(file.path) for file in self.files)

    def fingerprint(self) -> str:
        """A hash of the content of all files."""
        return hashlib.blake2b(b"".join(file.digest() for file in self.files), digest_size=16).hexdigest()

    def __repr__(self) -> str:
        return f"FileRows({self.name})"

    def _find(self, index: int) -> tuple[_File, int]:
        ends = list(accumulate(map(len, self.files)))
        total = ends[-1] if ends else 0
        if not -total <= index < total:
            raise IndexError(f"row {index} of {total}")
        index %= total
        number = bisect.bisect_right(ends, index)
        return self.files[number], index - (ends[number - 1] if number else 0)


class _File(ABC):
    """One file of rows."""

    is_counted = True
    unit = "line"
    """What `line` counts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def digest(self) -> bytes:
        content = hashlib.blake2b(self.path.suffix.encode(), digest_size=16)
        with open(self.path, "rb") as file:
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
        """The line in which that row begins, counting from 1."""

    def scan(self, start: Mark) -> Iterator[Scanned]:
        """The rows from `start` on, each read when it is asked for, where the form of the file allows."""
        for number, row in enumerate(islice(self, start.at, None), start.at):
            yield Scanned(functools.partial(_same, row), Mark(number), Mark(number + 1))

    def line_at(self, mark: Mark) -> int:
        """The line of the row at `mark`, counting from 1."""
        return self.line(mark.at)

    def _checked(self, value: Any, line: int) -> Row:
        if isinstance(value, dict):
            return value
        raise DataError(
            f"{self.path} line {line}: a row must be an object such as {{...}}, and this is "
            f"{json.dumps(value, ensure_ascii=False):.60}"
        )


class JsonLinesFile(_File):
    """One object per line."""

    _starts: array | None = None  # the byte each row begins at
    _lines: array

    def __iter__(self) -> Iterator[Row]:
        for found in self.scan(Mark()):
            yield found.read()

    def scan(self, start: Mark) -> Iterator[Scanned]:
        at = start.at
        with open(self.path, "rb") as file:
            file.seek(at)
            for number, line in enumerate(file, start.line):
                end = at + len(line)
                words = line.removeprefix(codecs.BOM_UTF8) if number == 0 else line
                if words and not words.isspace():
                    read = functools.partial(self._parse, words, number + 1)
                    yield Scanned(read, Mark(at, number), Mark(end, number + 1))
                at = end

    def line_at(self, mark: Mark) -> int:
        return mark.line + 1

    def __len__(self) -> int:
        return len(self._index())

    def read(self, row: int) -> Row:
        with open(self.path, "rb") as file:
            file.seek(self._index()[row])
            return self._parse(file.readline().removeprefix(codecs.BOM_UTF8), self._lines[row])

    def line(self, row: int) -> int:
        self._index()
        return self._lines[row]

    def _index(self) -> array:
        if self._starts is None:
            starts, lines = array("q"), array("q")
            position = 0
            with open(self.path, "rb") as file:
                for number, line in enumerate(file, start=1):
                    words = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                    if words and not words.isspace():
                        starts.append(position)
                        lines.append(number)
                    position += len(line)
            self._starts, self._lines = starts, lines
        return self._starts

    def _parse(self, line: bytes, number: int) -> Row:
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise _not_utf8(self.path, number, error.start + 1) from None
        except (json.JSONDecodeError, RecursionError) as error:
            raise _broken_json(self.path, number, error) from None
        return self._checked(value, number)


class JsonFile(_File):
    """A list of objects, or objects one after the other over any number of lines."""

    _words: str | None = None
    _starts: array | None = None

    @property
    def is_counted(self) -> bool:  # type: ignore[override]
        return self._starts is not None

    def __iter__(self) -> Iterator[Row]:
        for found in self.scan(Mark()):
            yield found.read()

    def scan(self, start: Mark) -> Iterator[Scanned]:
        words = self._text()
        starts = array("q")
        for number, (at, value) in enumerate(self._values(words)):
            starts.append(at)
            if number >= start.at:
                line = 0 if isinstance(value, dict) else words.count("\n", 0, at) + 1
                read = functools.partial(self._checked, value, line)
                yield Scanned(read, Mark(number), Mark(number + 1))
        self._starts = starts
        # The offsets are enough from here on; the text is read again if a single row is asked for.
        self._words = None

    def __len__(self) -> int:
        return len(self._index())

    def read(self, row: int) -> Row:
        value, _ = json.JSONDecoder().raw_decode(self._text(), self._index()[row])
        return self._checked(value, self.line(row))

    def line(self, row: int) -> int:
        return self._text().count("\n", 0, self._index()[row]) + 1

    def _text(self) -> str:
        if self._words is None:
            content = self.path.read_bytes()
            try:
                self._words = content.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                start = content.rfind(b"\n", 0, error.start) + 1
                line = content.count(b"\n", 0, error.start) + 1
                raise _not_utf8(self.path, line, error.start - start + 1) from None
        return self._words

    def _index(self) -> array:
        if self._starts is None:
            for _ in self.scan(Mark()):
                pass
        assert self._starts is not None
        return self._starts

    def _values(self, words: str) -> Iterator[tuple[int, Any]]:
        """Where each value begins, and the value."""
        decode = json.JSONDecoder().raw_decode
        at = _skip_space(words, 0)
        in_list = words.startswith("[", at)
        if in_list:
            at = _skip_space(words, at + 1)
        while not (in_list and words.startswith("]", at)) and (in_list or at < len(words)):
            try:
                value, end = decode(words, at)
            except (json.JSONDecodeError, RecursionError) as error:
                line = (
                    error.lineno if isinstance(error, json.JSONDecodeError) else words.count("\n", 0, at) + 1
                )
                raise _broken_json(self.path, line, error) from None
            yield at, value
            at = _skip_space(words, end)
            if in_list and words.startswith(",", at):
                at = _skip_space(words, at + 1)
            elif in_list and not words.startswith("]", at):
                raise self._unexpected(words, at, "a comma or ] must follow a row")
        if in_list:
            after = _skip_space(words, at + 1)
            if after < len(words):
                raise self._unexpected(words, after, "nothing may follow the list of rows")

    def _unexpected(self, words: str, at: int, rule: str) -> DataError:
        line = words.count("\n", 0, at) + 1
        found = repr(words[at : at + 20]) if at < len(words) else "the end of the file"
        return DataError(f"{self.path} line {line}: broken JSON: {rule}, and here is {found}")


class TableFile(_File):
    """Rows of a table: the first line names the fields, `read_table` gives (line, cells) of the file."""

    def __init__(self, path: Path, read_table: Callable[[Path], Iterator[tuple[int, list[Any]]]]) -> None:
        super().__init__(path)
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
        found = self._load()[row]
        if isinstance(found, DataError):
            raise found
        return found

    def line(self, row: int) -> int:
        self._load()
        return self._lines[row]

    def _load(self) -> list[Row | DataError]:
        if self._rows is None:
            table = self._read_table(self.path)
            _, names = next(table, (1, []))
            rows: list[Row | DataError] = []
            for line, cells in table:
                if all(cell in (None, "") for cell in cells):
                    continue
                self._lines.append(line)
                if len(cells) > len(names):
                    counts = f"{len(cells)} cells, but {len(names)} names in line 1"
                    rows.append(DataError(f"{self.path} line {line}: {counts}"))
                    continue
                cells = [*cells, *[None] * (len(names) - len(cells))]
                rows.append(
                    {str(name): cell for name, cell in zip(names, cells, strict=True) if name is not None}
                )
            self._rows = rows
        return self._rows


class ParquetFile(_File):
    """Rows of a table in column form."""

    unit = "row"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._group: tuple[int, list[Row]] | None = None  # the number of the rows last read, and they

    def __iter__(self) -> Iterator[Row]:
        for batch in self._open().iter_batches(batch_size=1000):
            yield from map(without_filled, batch.to_pylist())

    def scan(self, start: Mark) -> Iterator[Scanned]:
        table, number = self._open(), 0
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
        return self._open().metadata.num_rows

    def read(self, row: int) -> Row:
        table = self._open()
        sizes = [table.metadata.row_group(n).num_rows for n in range(table.num_row_groups)]
        ends = list(accumulate(sizes))
        number = bisect.bisect_right(ends, row)
        if self._group is None or self._group[0] != number:
            self._group = (number, table.read_row_group(number).to_pylist())
        return without_filled(self._group[1][row - ends[number] + sizes[number]])

    def line(self, row: int) -> int:
        return row + 1

    def _open(self) -> Any:
        import pyarrow
        import pyarrow.parquet

        try:
            return pyarrow.parquet.ParquetFile(self.path)
        except pyarrow.ArrowInvalid as error:
            raise DataError(f"{self.path}: not a Parquet file: {error}") from None


def _same(row: Row) -> Row:
    return row


def without_filled(row: Row) -> Row:
    """A row of an Arrow table without the keys that Arrow filled in.

        {"call": {"city": "P", "unit": None}}  ->  {"call": {"city": "P"}}

    All objects of a column have the same keys there, with null where only another row's object has a value.
    Columns themselves stay.
    """
    return {name: _written(value) for name, value in row.items()}


def _written(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _written(inner) for key, inner in value.items() if inner is not None}
    return [_written(inner) for inner in value] if isinstance(value, list) else value


def read_csv(path: Path) -> Iterator[tuple[int, list[Any]]]:
    """Line number and cells of each line of a comma-separated file in UTF-8."""
    content = path.read_bytes()
    try:
        words = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, content.count(b"\n", 0, error.start) + 1, 0) from None
    # A cell may be longer than the module's limit of 128 KiB.
    limit = csv.field_size_limit(max(len(words), 1 << 17))
    try:
        reader = csv.reader(words.splitlines(keepends=True))
        start = 1
        for cells in reader:
            yield start, list(cells)
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: broken CSV: {error}") from None
    finally:
        csv.field_size_limit(limit)


def read_xlsx(path: Path) -> Iterator[tuple[int, list[Any]]]:
    """Line number and cells of each line of a workbook's first sheet."""
    try:
        import openpyxl
    except ImportError:
        raise DataError(
            f"{path}: reading .xlsx needs openpyxl: {install_extra('excel')}, or save the sheet as .csv"
        ) from None
    book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    try:
        for number, cells in enumerate(book.worksheets[0].iter_rows(values_only=True), start=1):
            yield number, list(cells)
    finally:
        book.close()


def open_json(path: Path) -> _File:
    """The reader for a `.json` or `.jsonl` file, by its first line: either name is given to either form."""
    with open(path, "rb") as file:
        first = next((line for line in file if line.strip(codecs.BOM_UTF8 + b" \t\r\n")), b"")
    first = first.removeprefix(codecs.BOM_UTF8).strip()
    if first.startswith(b"["):
        return JsonFile(path)
    try:
        json.loads(first)
        one_per_line = True
    except ValueError:
        # The first row is broken, or an object goes on over several lines.
        one_per_line = path.suffix == ".jsonl"
    return JsonLinesFile(path) if one_per_line else JsonFile(path)


def _skip_space(words: str, at: int) -> int:
    while at < len(words) and words[at] in _SPACE:
        at += 1
    return at


def _not_utf8(path: Path, line: int, byte: int) -> DataError:
    where = f" byte {byte}" if byte else ""
    with open(path, "rb") as file:
        is_utf16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    kind, name = ("UTF-16", "utf-16") if is_utf16 else ("GBK", "gbk")
    return DataError(
        f"{path} line {line}{where}: not valid UTF-8. Convert the file, {'' if is_utf16 else 'for example '}"
        f"from {kind}: iconv -f {name} -t utf-8 {path.name} > utf8_{path.name}"
    )


def _broken_json(path: Path, line: int, error: Exception) -> DataError:
    if isinstance(error, json.JSONDecodeError):
        return DataError(f"{path} line {line} column {error.colno}: broken JSON: {error.msg}")
    return DataError(f"{path} line {line}: the JSON is nested too deeply")
