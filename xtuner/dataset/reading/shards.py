"""Rows of WebDataset shards: the files of a sample have one name, with different suffixes.

    shard-000.tar    cat.jpg                       {"__key__": "cat", "image": "/data/shard-000.tar/cat.jpg",
                     cat.json  {"source": "web"}    "source": "web", "text": "a cat"}
                     cat.txt   a cat
                     dog.jpg ...

Images stay in the archive: the row names them, and `ImageSource` reads them there.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import posixpath
from array import array
from collections.abc import Iterator
from itertools import groupby
from typing import IO, Any, NamedTuple

from xtuner.dataset.images.archives import damage_named, tar_members
from xtuner.dataset.reading.files import Mark, Row, RowsFile, Scanned
from xtuner.errors import DataError
from xtuner.language import translate
from xtuner.log import say_once

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
VIDEOS = ("mp4", "webm", "mkv", "avi", "mov")
TEXTS = {"txt": "text", "text": "text", "caption": "text", "cls": "cls"}


class _Member(NamedTuple):
    """A file of a sample: key of the sample, suffix, whole name, and the positions of header and content."""

    key: str
    suffix: str
    name: str
    header: int
    start: int
    size: int


class ShardFile(RowsFile):
    """The samples of a shard; an index holds the position of each."""

    place_text = "{name} row {line}"
    _starts: array | None = None

    def __iter__(self) -> Iterator[Row]:
        for found in self.scan(Mark()):
            yield found.read()

    def scan(self, start: Mark) -> Iterator[Scanned]:
        with self.opened() as file, damage_named(self.name):
            samples = groupby(self._members(file, start.at), key=lambda member: member.key)
            before: tuple[list[_Member], Mark] | None = None
            number = start.line
            for _, group in samples:
                members = list(group)
                mark = Mark(members[0].header, number)
                if before is not None:
                    yield self._scanned(*before, mark)
                before, number = (members, mark), number + 1
            if before is not None:
                yield self._scanned(*before, Mark(os.path.getsize(self.path), number))

    def _scanned(self, members: list[_Member], mark: Mark, after: Mark) -> Scanned:
        return Scanned(functools.partial(self._row, members, mark.line), mark, after)

    def place_at(self, mark: Mark) -> str:
        return translate(self.place_text, name=self.name, line=mark.line + 1)

    def __len__(self) -> int:
        return len(self._index())

    def read(self, row: int) -> Row:
        start = self._index()[row]
        with self.opened() as file, damage_named(self.name):
            members = list(next(groupby(self._members(file, start), key=lambda member: member.key))[1])
        return self._row(members, row)

    def line(self, row: int) -> int:
        return row + 1

    def _index(self) -> array:
        if self._starts is None:
            self._starts = array("q", (found.mark.at for found in self.scan(Mark())))
        return self._starts

    def _members(self, file: IO[bytes], start: int) -> Iterator[_Member]:
        """The files from `start` on that belong to samples; names that begin with a dot do not."""
        if start >= os.path.getsize(self.path):
            return
        for info in tar_members(file, self.name, start):
            folder, name = posixpath.split(info.name)
            key, dot, suffix = name.partition(".")
            if info.isfile() and key and dot:
                suffix = suffix.lower().rpartition(".")[2]
                yield _Member(
                    posixpath.join(folder, key), suffix, info.name, info.offset, info.offset_data, info.size
                )

    def _read_digest(self) -> bytes:
        """Of the names, sizes and texts: images are not read, as no token depends on their pixels."""
        content = hashlib.blake2b(b"shard", digest_size=16)
        with self.opened() as file, open(self.path, "rb") as texts, damage_named(self.name):
            for member in self._members(file, 0):
                content.update(repr((member.name, member.size)).encode("utf-8", "surrogateescape"))
                if member.suffix == "json" or member.suffix in TEXTS:
                    content.update(_content(texts, member))
        return content.digest()

    def _row(self, members: list[_Member], number: int) -> Row:
        row: Row = {"__key__": members[0].key}
        files: dict[str, list[str]] = {"image": [], "video": []}
        with self.opened() as file:
            for member in members:
                path = f"{os.path.abspath(self.path)}/{member.name}"
                if member.suffix in IMAGES:
                    files["image"].append(path)
                elif member.suffix in VIDEOS:
                    files["video"].append(path)
                elif member.suffix == "json":
                    row |= self._object(_content(file, member), member, number)
                elif member.suffix in TEXTS:
                    row.setdefault(TEXTS[member.suffix], self._text(_content(file, member), member, number))
                else:
                    say_once(
                        "{name}: files of kind .{suffix} are not read", name=self.name, suffix=member.suffix
                    )
        row |= {field: paths[0] if len(paths) == 1 else paths for field, paths in files.items() if paths}
        return row

    def _object(self, content: bytes, member: _Member, number: int) -> dict[str, Any]:
        try:
            value = json.loads(self._text(content, member, number))
        except (ValueError, RecursionError) as error:
            if isinstance(error, DataError):
                raise
            raise self._broken(member, number, error) from None
        if not isinstance(value, dict):
            raise self._broken(member, number, translate("it is no object such as {{...}}"))
        return value

    def _text(self, content: bytes, member: _Member, number: int) -> str:
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise self._broken(member, number, error) from None

    def _broken(self, member: _Member, number: int, reason: Any) -> DataError:
        place = self.place_at(Mark(line=number))
        return DataError(
            translate(
                "{place}: {name} cannot be read: {reason}", place=place, name=member.name, reason=reason
            )
        )


def _content(file: IO[bytes], member: _Member) -> bytes:
    file.seek(member.start)
    return file.read(member.size)
