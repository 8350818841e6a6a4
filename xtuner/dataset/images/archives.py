"""Files in `.zip` and `.tar` archives, read in place.

    archive = Archive("images.zip")         reads the list of files once
    archive.read("train/1.jpg")             the content of one
    archive.open("train/1.jpg")             the same as a file; a few bytes are read for its header

Nothing stays open: each read opens the archive. So it may be used by threads, forked and spawned processes.
The list is an array of 29 bytes a file, and is pickled with the archive.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import posixpath
import tarfile
import zipfile
import zlib
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np

from xtuner.errors import DataError
from xtuner.language import translate
from xtuner.log import say_once

SUFFIXES = (".zip", ".tar")

_TAR, _STORED, _DEFLATED, _OTHER = range(4)  # how a file is kept
# Files, links and folders, whose one header says all. A long name or a fine time has headers of its own.
_PLAIN_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE)
_ZIP_HEADER = 30  # bytes before the name of a file in a zip archive
_ENCRYPTED = 1


class Entry(NamedTuple):
    """A file in an archive: its name, the position and number of its bytes, and how they are kept."""

    name: str
    start: int
    size: int
    kind: int
    crc: int = 0


_ENTRY = np.dtype([("start", "i8"), ("size", "i8"), ("kind", "u1"), ("crc", "u4")])


class Archive:
    """The files in an archive, by name; a later file replaces an earlier one of the same name.

    DataError if the archive is damaged, compressed as a whole, or changes while it is used.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        with damage_named(self.path):
            self.state = _state(os.stat(path))
            self._keys, self._entries = _table(entries(path))

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def open(self, name: str) -> BinaryIO:
        """The file `name` of the archive, opened for reading; it must be closed."""
        entry = self._entry(name)
        if entry["kind"] == _DEFLATED:
            return io.BytesIO(self.read(name))
        file = self._opened()
        try:
            start = self._start(file, entry, name)
            return io.BufferedReader(_Slice(file, start, int(entry["size"])))
        except BaseException:
            file.close()
            raise

    def read(self, name: str) -> bytes:
        """The content of the file `name` of the archive; checked by its sum in a zip archive."""
        entry = self._entry(name)
        with self._opened() as file:
            file.seek(self._start(file, entry, name))
            content = file.read(int(entry["size"]))
        is_whole = len(content) == entry["size"]
        if is_whole and entry["kind"] == _DEFLATED:
            try:
                content = zlib.decompress(content, -zlib.MAX_WBITS)
            except zlib.error:
                is_whole = False
        if is_whole and entry["kind"] != _TAR:
            is_whole = zlib.crc32(content) == entry["crc"]
        if not is_whole:
            raise DataError(translate("{name} is damaged or cut off", name=f"{self.path}/{name}"))
        return content

    def identity(self, name: str) -> tuple[Any, ...]:
        """What changes if the content of the file `name` changes."""
        entry = self._entry(name)
        return os.path.abspath(self.path), *self.state, int(entry["start"]), int(entry["size"])

    def _find(self, name: str) -> int | None:
        key = _key(name)
        index = int(np.searchsorted(self._keys, np.uint64(key), side="right")) - 1
        return index if index >= 0 and int(self._keys[index]) == key else None

    def _entry(self, name: str) -> Any:
        index = self._find(name)
        if index is None:
            raise DataError(translate("there is no {name} in {archive}", name=name, archive=self.path))
        entry = self._entries[index]
        if entry["kind"] == _OTHER:
            raise DataError(
                translate(
                    "{name} is encrypted or compressed in a way that is not read: pack {archive} again, as "
                    "zip -0 does",
                    name=name,
                    archive=self.path,
                )
            )
        return entry

    def _opened(self) -> BinaryIO:
        try:
            file = open(self.path, "rb")  # noqa: SIM115 (closed by the caller)
        except OSError as error:
            raise DataError(
                translate("{name} cannot be read: {error}", name=self.path, error=error.strerror or error)
            ) from error
        if _state(os.fstat(file.fileno())) != self.state:
            file.close()
            raise DataError(
                translate("{name} changed while it was read: start again", name=self.path),
            )
        return file

    def _start(self, file: BinaryIO, entry: Any, name: str) -> int:
        """The position of the content: in a zip archive after a header of its own length."""
        start = int(entry["start"])
        if entry["kind"] == _TAR:
            return start
        file.seek(start)
        header = file.read(_ZIP_HEADER)
        if len(header) < _ZIP_HEADER or not header.startswith(b"PK\3\4"):
            raise DataError(translate("{name} is damaged or cut off", name=f"{self.path}/{name}"))
        lengths = header[26:28], header[28:30]
        return start + _ZIP_HEADER + sum(int.from_bytes(length, "little") for length in lengths)


def entries(path: str | Path) -> Iterator[Entry]:
    """The files in the archive `path`, in order; DataError if it is damaged."""
    with damage_named(str(path)):
        yield from _zip_entries(path) if zipfile.is_zipfile(path) else _tar_entries(path)


def _zip_entries(path: str | Path) -> Iterator[Entry]:
    kinds = {zipfile.ZIP_STORED: _STORED, zipfile.ZIP_DEFLATED: _DEFLATED}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                kind = _OTHER if info.flag_bits & _ENCRYPTED else kinds.get(info.compress_type, _OTHER)
                yield Entry(info.filename, info.header_offset, info.compress_size, kind, info.CRC)


def _tar_entries(path: str | Path) -> Iterator[Entry]:
    num_links = 0
    with open(path, "rb") as file:
        for info in tar_members(file, str(path)):
            num_links += info.islnk() or info.issym()
            if info.isfile():
                yield Entry(info.name, info.offset_data, info.size, _OTHER if info.issparse() else _TAR)
    if num_links:
        say_once("{archive}: {links} links to other files are left out", archive=str(path), links=num_links)


def tar_members(file: IO[bytes], name: str, start: int = 0) -> Iterator[tarfile.TarInfo]:
    """The members of a tar archive from byte `start` on; ValueError if a header is damaged."""
    end = file.seek(0, os.SEEK_END)
    while start < end:
        file.seek(start)
        block = file.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE or block[156:157] not in _PLAIN_TYPES or not block.strip(b"\0"):
            break
        info = tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
        info.offset, info.offset_data = start, start + tarfile.BLOCKSIZE
        size = info.size if info.isfile() else 0
        start = info.offset_data + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        if start > end:
            raise ValueError(translate("the header at byte {byte:,} cannot be read", byte=start))
        yield info
    yield from _other_tar_members(file, name, start)


def _other_tar_members(file: IO[bytes], name: str, start: int) -> Iterator[tarfile.TarInfo]:
    """The members from byte `start` on, by tarfile: it reads headers of all kinds, but takes longer."""
    file.seek(start)
    if not file.read(1):
        say_once("{archive} ends without the mark of its end: it may be cut off", archive=name)
        return
    file.seek(start)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined] # or every header stays in memory
            yield info
        end = archive.offset
    # tarfile stops at a damaged header as at the end.
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0"):
        raise ValueError(translate("the header at byte {byte:,} cannot be read", byte=end))
    if not block:
        say_once("{archive} ends without the mark of its end: it may be cut off", archive=name)


def clean(name: str) -> str:
    """The name of a file in an archive without `./` and doubled slashes, as it is looked up."""
    return posixpath.normpath(name.replace("\\", "/"))


def _key(name: str) -> int:
    """A hash of the name, in 64 bits: names are not kept."""
    digest = hashlib.blake2b(clean(name).encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _table(entries: Iterable[Entry]) -> tuple[np.ndarray, np.ndarray]:
    """The sorted keys of the entries, and the entries in that order."""
    keys = array("Q")

    def rows() -> Iterator[tuple[int, ...]]:
        for entry in entries:
            keys.append(_key(entry.name))
            yield entry[1:]

    table = np.fromiter(rows(), dtype=_ENTRY)
    # Arrays of their own: a search in a column of records would copy the column.
    all_keys = np.array(keys, dtype=np.uint64)
    order = np.argsort(all_keys, kind="stable")
    return all_keys[order], table[order]


def _state(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns


@contextlib.contextmanager
def damage_named(path: str) -> Iterator[None]:
    """Raise DataError of one line for all errors of reading an archive."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        raise DataError(
            translate("{name} cannot be read: {error}", name=path, error=error.strerror or error)
        ) from error
    except Exception as error:  # zipfile and tarfile raise errors of many kinds on damaged files
        raise DataError(
            translate(
                "{name} is no .zip or plain .tar archive, or a damaged one: {error}", name=path, error=error
            )
        ) from error


class _Slice(io.RawIOBase):
    """A part of an open file, as a file; it closes that file."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size = file, start, size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._position))
        self._file.seek(self._start + self._position)
        count = self._file.readinto(memoryview(buffer)[:count])  # type: ignore[attr-defined]
        self._position += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
