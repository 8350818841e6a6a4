"""Files that are packed or elsewhere, as plain files of this machine.

    data.jsonl.gz                 ->  $XTUNER_CACHE/unpacked/<key>/data.jsonl
    https://host/data.jsonl.gz    ->  $XTUNER_CACHE/fetched/<key>/data.jsonl.gz, then as above

A copy is complete or absent, and made again where its source has changed. So each format has one reader,
wherever its file comes from.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from xtuner.dataset.store import cache_folder
from xtuner.errors import DataError, NotFoundError
from xtuner.log import logger, say_once

PACKED = (".gz", ".bz2", ".xz", ".zst")


def is_elsewhere(name: str) -> bool:
    """Whether that is an address rather than a path."""
    return "://" in name


def unpacked(path: Path, name: str) -> Path:
    """A plain copy of a packed file; DataError where it is damaged."""
    state = path.stat()
    key = _hash(str(path.resolve()), state.st_size, state.st_mtime_ns)

    def write(target: IO[bytes]) -> None:
        try:
            with _open_packed(path) as source:
                shutil.copyfileobj(source, target, 1 << 20)
        except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
            raise DataError(f"{name}: damaged or cut off: {error}") from None

    return _copy("unpacked", key, path.stem, write)


def _open_packed(path: Path) -> Any:
    if path.suffix == ".gz":
        import gzip

        return gzip.open(path)
    if path.suffix == ".bz2":
        import bz2

        return bz2.open(path)
    if path.suffix == ".xz":
        return lzma.open(path)
    try:
        from compression import zstd  # type: ignore[import-not-found]  # Python 3.14

        return zstd.open(path)
    except ImportError:
        try:
            import zstandard
        except ImportError:
            raise DataError(
                f"{path}: reading .zst needs the package zstandard: pip install zstandard"
            ) from None
        return zstandard.open(path)


def fetched(address: str) -> Path:
    """A copy of the file at `address`, by any protocol that fsspec knows."""
    import fsspec

    protocol = address.partition("://")[0]
    try:
        system, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        package = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "oss": "ossfs", "az": "adlfs"}.get(protocol)
        cure = f" the package {package}: pip install {package}" if package else f": {error}"
        raise DataError(f"{address} needs{cure}") from None
    except ValueError:
        raise DataError(
            f"{address}: no protocol {protocol!r} is known; fetch the file and name its path"
        ) from None
    name = path.rstrip("/").rpartition("/")[2]
    folder = _hash(address)
    try:
        state = system.ukey(path)
    except FileNotFoundError as error:
        raise NotFoundError(f"{address} cannot be fetched: {_reason(error)}") from None
    except Exception as error:  # each protocol has errors of its own
        kept = sorted((cache_folder() / "fetched").glob(f"{folder}-*/{name}"), key=os.path.getmtime)
        if not kept:
            raise NotFoundError(f"{address} cannot be fetched: {_reason(error)}") from None
        say_once(f"{address} cannot be reached: the copy of an earlier run is used ({_reason(error)})")
        return kept[-1]

    def write(target: IO[bytes]) -> None:
        logger.info("fetching %s", address)
        try:
            with system.open(path, "rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)
        except Exception as error:
            raise NotFoundError(f"{address} cannot be fetched: {_reason(error)}") from None

    return _copy("fetched", f"{folder}-{_hash(state)}", name, write)


def _copy(kind: str, key: str, name: str, write: Callable[[IO[bytes]], None]) -> Path:
    """The file `name` that `write` makes, kept in the cache under `key`."""
    folder = cache_folder() / kind / key
    if (folder / name).is_file():
        return folder / name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as beside:
        try:
            write(beside)
            beside.flush()
            os.fsync(beside.fileno())
            os.replace(beside.name, folder / name)
        except BaseException:
            os.unlink(beside.name)
            raise
    return folder / name


def _hash(*parts: Any) -> str:
    return hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
