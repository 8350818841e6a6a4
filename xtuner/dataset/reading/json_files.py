"""Rows of JSON: one object a line, a list of objects, or objects one after the other over several lines.

{"a": 1}          [{"a": 1},          {"version": 1,
{"a": 2}           {"a": 2}]           "data": [{"a": 1}, {"a": 2}]}
"""

from __future__ import annotations

import codecs
import functools
import json
import logging
import sys
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xtuner.dataset.reading.files import AT_LINE, Mark, Row, RowsFile, Scanned, checked, same
from xtuner.errors import DataError
from xtuner.language import translate
from xtuner.log import say_once

_SPACE = " \t\r\n"
LISTS = ("data", "rows", "train", "examples", "instances", "items", "records", "samples", "dataset")
"""Keys that may hold the list of rows of a file."""


class JsonLinesFile(RowsFile):
    """One object per line."""

    _starts: array | None = None  # the first byte of each row
    _lines: array

    def __iter__(self) -> Iterator[Row]:
        for found in self.scan(Mark()):
            yield found.read()

    def scan(self, start: Mark) -> Iterator[Scanned]:
        at = start.at
        with self.opened() as file:
            file.seek(at)
            for number, line in enumerate(file, start.line):
                end = at + len(line)
                words = line.removeprefix(codecs.BOM_UTF8) if number == 0 else line
                if words and not words.isspace():
                    read = functools.partial(self._parse, words, number + 1)
                    yield Scanned(read, Mark(at, number), Mark(end, number + 1))
                at = end

    def place_at(self, mark: Mark) -> str:
        return translate(AT_LINE, name=self.name, line=mark.line + 1)

    def __len__(self) -> int:
        return len(self._index())

    def read(self, row: int) -> Row:
        with self.opened() as file:
            file.seek(self._index()[row])
            return self._parse(file.readline().removeprefix(codecs.BOM_UTF8), self._lines[row])

    def line(self, row: int) -> int:
        self._index()
        return self._lines[row]

    def _index(self) -> array:
        if self._starts is None:
            starts, lines = array("q"), array("q")
            position = 0
            with self.opened() as file:
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
            raise not_utf8(self, number, error.start + 1) from None
        except (ValueError, RecursionError) as error:
            if number == 1 and is_wide(line):
                raise not_utf8(self, 1, 0) from None
            raise _broken_json(self.name, number, error) from None
        return self._row(value, number)

    def _row(self, value: Any, line: int) -> Row:
        return checked(value, lambda: translate(AT_LINE, name=self.name, line=line))


class JsonFile(RowsFile):
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
                read = functools.partial(same, value)
                if not isinstance(value, dict):
                    place = self._place(words, starts, number)
                    read = functools.partial(checked, value, functools.partial(str, place))
                yield Scanned(read, Mark(number), Mark(number + 1))
        self._starts = starts
        # The offsets are kept; the text is read again for random access.
        self._words = None

    def __len__(self) -> int:
        return len(self._index())

    def read(self, row: int) -> Row:
        value, _ = json.JSONDecoder().raw_decode(self._text(), self._index()[row])
        return checked(value, lambda: self.place(row))

    def line(self, row: int) -> int:
        return self._text().count("\n", 0, self._index()[row]) + 1

    def lines(self) -> Iterator[int]:
        words, line, before = self._text(), 1, 0
        for start in self._index():
            line += words.count("\n", before, start)
            before = start
            yield line

    def place(self, row: int) -> str:
        return self._place(self._text(), self._index(), row)

    def _place(self, words: str, starts: array, row: int) -> str:
        """The line of a row, and its number if other rows begin in the same line."""
        start = starts[row]
        before = starts[row - 1] if row else None
        after = starts[row + 1] if row + 1 < len(starts) else None
        is_alone = (before is None or "\n" in words[before:start]) and (
            after is None or "\n" in words[start:after]
        )
        line = words.count("\n", 0, start) + 1
        place = translate(AT_LINE, name=self.name, line=line)
        return place if is_alone else place + translate(", row {number}", number=row + 1)

    def _text(self) -> str:
        if self._words is None:
            with self.opened() as file:
                content = file.read()
            if is_wide(content):
                raise not_utf8(self, 1, 0)
            try:
                self._words = content.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                start = content.rfind(b"\n", 0, error.start) + 1
                line = content.count(b"\n", 0, error.start) + 1
                raise not_utf8(self, line, error.start - start + 1) from None
        return self._words

    def _index(self) -> array:
        if self._starts is None:
            for _ in self.scan(Mark()):
                pass
        assert self._starts is not None
        return self._starts

    def _values(self, words: str) -> Iterator[tuple[int, Any]]:
        """The start of each value, and the value."""
        decode = json.JSONDecoder().raw_decode
        at = _skip_space(words, 0)
        named = _list_by_name(words, at)
        if named is not None:
            name, at, others = named
            left_out = (
                translate("; those under {names} are left out", names=", ".join(map(repr, others)))
                if others
                else ""
            )
            level = logging.WARNING if others else logging.INFO
            say_once(
                "the rows of {name} are those under {key!r}{left_out}",
                level,
                name=self.name,
                left_out=left_out,
                key=name,
            )
        in_list = words.startswith("[", at)
        if in_list:
            at = _skip_space(words, at + 1)
        while not (in_list and words.startswith("]", at)) and (in_list or at < len(words)):
            try:
                value, end = decode(words, at)
            except (ValueError, RecursionError) as error:
                line = getattr(error, "lineno", 0) or words.count("\n", 0, at) + 1
                raise _broken_json(self.name, line, error) from None
            yield at, value
            at = _skip_space(words, end)
            if in_list and words.startswith(",", at):
                at = _skip_space(words, at + 1)
            elif in_list and not words.startswith("]", at):
                raise self._unexpected(words, at, translate("a comma or ] must follow a row"))
        if in_list and named is None:
            after = _skip_space(words, at + 1)
            if after < len(words):
                raise self._unexpected(words, after, translate("nothing may follow the list of rows"))

    def _unexpected(self, words: str, at: int, rule: str) -> DataError:
        line = words.count("\n", 0, at) + 1
        found = repr(words[at : at + 20]) if at < len(words) else translate("the end of the file")
        return DataError(
            translate(
                "{name} line {line}: broken JSON: {rule}, but here is {found}",
                name=self.name,
                line=line,
                rule=rule,
                found=found,
            )
        )


def open_json(path: Path, name: str = "") -> RowsFile:
    """The reader for a `.json` or `.jsonl` file, by its first line: suffixes are not reliable."""
    with open(path, "rb") as file:
        lines = (line for line in file if line.strip(codecs.BOM_UTF8 + b" \t\r\n"))
        first, is_alone = next(lines, b""), next(lines, None) is None
    first = first.removeprefix(codecs.BOM_UTF8).strip()
    if first.startswith(b"["):
        return JsonFile(path, name)
    try:
        value = json.loads(first)
        one_per_line = not is_alone or _name_of_list(value) is None
    except (ValueError, RecursionError):
        # The first row is broken, or an object continues over several lines.
        one_per_line = path.suffix == ".jsonl"
    return JsonLinesFile(path, name) if one_per_line else JsonFile(path, name)


def _list_by_name(words: str, at: int) -> tuple[str, int, list[str]] | None:
    """The key of the list of rows in the one object of `words`, its start, and the keys of other lists."""
    decode = json.JSONDecoder().raw_decode
    if not words.startswith("{", at):
        return None
    try:
        value, end = decode(words, at)
    except (ValueError, RecursionError):  # reported when the rows are read
        return None
    key = _name_of_list(value)
    if key is None or _skip_space(words, end) < len(words):
        return None
    while True:
        name, at = decode(words, _skip_space(words, at + 1))
        at = _skip_space(words, _skip_space(words, at) + 1)  # past the colon
        if name == key:
            return name, at, [other for other in _lists(value) if other != key and value[other]]
        at = _skip_space(words, decode(words, at)[1])  # at the comma


def _name_of_list(value: Any) -> str | None:
    known = [name for name in _lists(value) if name.lower() in LISTS]
    return known[0] if len(known) == 1 else None


def _lists(value: Any) -> list[str]:
    """The keys of the lists of objects in `value`."""
    if not isinstance(value, Mapping):
        return []
    return [
        name
        for name, inner in value.items()
        if isinstance(inner, list) and all(isinstance(row, dict) for row in inner)
    ]


def _skip_space(words: str, at: int) -> int:
    while at < len(words) and words[at] in _SPACE:
        at += 1
    return at


def not_utf8(file: RowsFile, line: int, byte: int) -> DataError:
    """The error for a byte that is not UTF-8, with the command that converts the file."""
    place = translate(AT_LINE, name=file.name, line=line)
    if byte:
        place += translate(" byte {byte}", byte=byte)
    with open(file.path, "rb") as content:
        wide = _wide_encoding(content.read(4))
    name = wide or "gbk"
    command = f"iconv -f {name} -t utf-8 {file.path.name} > utf8_{file.path.name}"
    text = (
        "{place}: not valid UTF-8. Convert the file, from {encoding}: {command}"
        if wide
        else "{place}: not valid UTF-8. Convert the file, for example from {encoding}: {command}"
    )
    return DataError(translate(text, place=place, encoding=name.upper(), command=command))


def is_wide(content: bytes) -> bool:
    """Whether the content begins as UTF-16 or UTF-32, which may be valid UTF-8 with zero bytes."""
    return bool(_wide_encoding(content))


def _wide_encoding(content: bytes) -> str:
    marks = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
    marks |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    for mark, name in marks.items():
        if content.startswith(mark):
            return name
    letters = "".join("a" if byte else "0" for byte in content[:4])
    plain = {"a0a0": "utf-16le", "0a0a": "utf-16be", "a000": "utf-32le", "000a": "utf-32be"}
    return plain.get(letters, "")


def _broken_json(name: str, line: int, error: Exception) -> DataError:
    if isinstance(error, json.JSONDecodeError):
        return DataError(
            translate(
                "{name} line {line} column {column}: broken JSON: {msg}",
                name=name,
                line=line,
                msg=error.msg,
                column=error.colno,
            )
        )
    if isinstance(error, RecursionError):
        return DataError(translate("{name} line {line}: the JSON is nested too deeply", name=name, line=line))
    digits = sys.get_int_max_str_digits()
    return DataError(
        translate(
            "{name} line {line}: a number has more than {digits:,} digits, which Python does not read",
            name=name,
            line=line,
            digits=digits,
        )
    )
