"""Local plain copies of compressed or remote files.

    data.jsonl.gz                 ->  $XTUNER_CACHE/unpacked/<key>/data.jsonl
    https://host/data.jsonl.gz    ->  $XTUNER_CACHE/fetched/<key>/data.jsonl.gz, then as above

A copy is complete or absent, and made again if its source has changed. So each format needs one reader only.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import lzma
import os
import shutil
import urllib.error
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from xtuner.atomic import written
from xtuner.cache import cache_folder, explained_disk_errors
from xtuner.data_files import WEB, check_protocol, file_name
from xtuner.dataset.reading.web import opened
from xtuner.errors import DataError, NotFoundError
from xtuner.extras import install_extra
from xtuner.language import translate
from xtuner.log import logger, say_once

_UNPACKERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_BLOCK = 1 << 20

_TIMEOUT_S = 60.0


def unpacked(path: Path, name: str) -> Path:
    """A plain copy of a compressed file; DataError if it is damaged."""
    state = path.stat()
    key = _hash(str(path.resolve()), state.st_size, state.st_mtime_ns)

    def write(target: IO[bytes]) -> None:
        for block in _blocks(path, name):
            target.write(block)

    return _copy("unpacked", key, path.stem, write)


def _blocks(path: Path, name: str) -> Iterator[bytes]:
    """The content of a compressed file, in blocks."""
    try:
        with open(path, "rb") as file:
            if path.suffix.lower() == ".zst":
                yield from _blocks_of_zstd(file, name)
                return
            with _UNPACKERS[path.suffix.lower()](file) as source:
                while block := source.read(_BLOCK):
                    yield block
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise DataError(
            translate("{name}: damaged or cut off: {reason}", name=name, reason=_reason(error))
        ) from None


def _blocks_of_zstd(file: IO[bytes], name: str) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        raise DataError(
            translate(
                "{name}: .zst needs the package zstandard: {command}",
                name=name,
                command=install_extra("zstd"),
            )
        ) from None
    # The file reader of zstandard does not notice a truncated file.
    frame = None
    while block := file.read(_BLOCK):
        while block:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            try:
                yield frame.decompress(block)
            except zstandard.ZstdError as error:
                raise ValueError(error) from None
            block = frame.unused_data
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError(translate("the file ends within a frame"))


def fetched(address: str) -> Path:
    """A copy of the file at `address`: of the web, or of any protocol of fsspec."""
    name, folder = file_name(address), _hash(address)
    try:
        with _opened(address) as (state, source):

            def write(target: IO[bytes]) -> None:
                logger.info(translate("downloading %s"), address)
                shutil.copyfileobj(source, target, _BLOCK)

            # A copy cannot be checked if the source does not report its changes.
            key = f"{folder}-{_hash(state)}" if state else folder
            return _copy("fetched", key, name, write, anew=not state)
    except DataError:
        raise
    except Exception as error:  # each protocol raises different errors
        copies = sorted((cache_folder() / "fetched").glob(f"{folder}*/{name}"), key=os.path.getmtime)
        if not copies or _is_refused(error):
            raise NotFoundError(
                translate("{address} cannot be downloaded: {reason}", address=address, reason=_reason(error))
            ) from None
        say_once(
            "{address} cannot be reached: the copy of an earlier run is used ({reason})",
            address=address,
            reason=_reason(error),
        )
        return copies[-1]


def _is_refused(error: Exception) -> bool:
    """Whether the server answered that the file does not exist or is not accessible."""
    status = getattr(error, "code", None)
    return isinstance(error, FileNotFoundError) or (isinstance(status, int) and 400 <= status < 500)


def _opened(address: str) -> contextlib.AbstractContextManager[tuple[Any, Any]]:
    """The version of the file at `address`, or None if it is unknown, and its content."""
    return _opened_web(address) if address.lower().startswith(WEB) else _opened_by_fsspec(address)


@contextlib.contextmanager
def _opened_web(address: str) -> Iterator[tuple[Any, Any]]:
    with opened(address, _TIMEOUT_S) as response:
        headers = response.headers
        if headers.get_content_type() == "text/html":
            raise DataError(
                translate(
                    "{address} is a web page, not a data file: give the address of the file itself",
                    address=address,
                )
            )
        is_compressed = headers.get("Content-Encoding", "") == "gzip" and not file_name(address).endswith(
            ".gz"
        )
        state = [headers.get(name) for name in ("ETag", "Last-Modified", "Content-Length")]
        content = _Whole(response, headers.get("Content-Length"))
        yield state if any(state[:2]) else None, gzip.GzipFile(fileobj=content) if is_compressed else content


class _Whole(io.RawIOBase):
    """The content of a response; OSError if it ends before the announced length."""

    def __init__(self, response: Any, length: str | None) -> None:
        self._response = response
        self._left = int(length) if length else None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._response.read(len(buffer))
        buffer[: len(block)] = block
        if self._left is not None:
            self._left -= len(block)
            if self._left > 0 and not block:
                raise OSError(
                    translate(
                        "the connection ended {left:,} bytes before the end of the file", left=self._left
                    )
                )
        return len(block)


@contextlib.contextmanager
def _opened_by_fsspec(address: str) -> Iterator[tuple[Any, Any]]:
    import fsspec

    check_protocol(address)
    system, path = fsspec.core.url_to_fs(address)
    state = system.ukey(path)
    with system.open(path, "rb") as source:
        yield state, source


def _copy(kind: str, key: str, name: str, write: Callable[[IO[bytes]], None], *, anew: bool = False) -> Path:
    """The file `name` written by `write`, cached under `key`; with `anew` it is always written again."""
    folder = cache_folder() / kind / key
    if (folder / name).is_file() and not anew:
        return folder / name
    with explained_disk_errors(folder, translate("a copy of the data")):
        folder.mkdir(parents=True, exist_ok=True)
        # Several processes may write the same copy at the same time.
        with written(folder / name, shared=True) as part, open(part, "wb") as file:
            write(file)
    return folder / name


def _hash(*parts: Any) -> str:
    return hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _reason(error: Exception) -> str:
    reason = error.reason if type(error) is urllib.error.URLError else error
    return (str(reason).strip().splitlines() or [type(error).__name__])[0]
