"""The token store: samples on disk, memory-mapped, found again by what they were made of.

    ~/.cache/xtuner/tokens/<key>/      (or $XTUNER_CACHE/tokens/<key>/)
        ids.bin       int32, the tokens of all samples one after the other
        trained.bin   one bit per token: is it trained
        ends.bin      uint32, sample i is ids[ends[i - 1]:ends[i]], the first one ids[:ends[0]]
        rows.bin      uint32, the row of the source that sample i came from
        about.json    sizes, carries, a hash of the content, and the counts to report
        faults.txt    rows that were left out, where there are any: place and reason of each

`ends` beyond 2 ** 32 are kept without their upper bits: `carries` names the samples at which these grow by
one. A store takes at most 4.2 bytes a token for samples of 107 tokens or more.

It is complete or absent: it is written beside its place, synced and renamed.
The first process that wants a missing store writes it under a lock; the others wait for it and then map the
same file, so nothing is sent between them.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from xtuner.dataset.encode import Encoded
from xtuner.errors import DataError
from xtuner.locks import locked
from xtuner.log import say_once

_FILES = {"ids": np.int32, "trained": np.uint8, "ends": np.uint32, "rows": np.uint32}
FAULTS = "faults.txt"
_LAYOUT = 2
"""Raised with every change of the files, so that no other form is ever read as this one."""

_LIMIT = 1 << 32
"""Row numbers stay below it; of ends, what is beyond it is in the carries."""


class TokenStore:
    """Samples to read, by number; cheap to pickle, as another process opens the same files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about: dict[str, Any] = json.loads((folder / "about.json").read_text("utf-8"))
        arrays = {name: _map(folder / f"{name}.bin", kind) for name, kind in _FILES.items()}
        self.ids, self._trained_bits = arrays["ids"], arrays["trained"]
        self._ends, self.rows = arrays["ends"], arrays["rows"]
        self._carries: list[int] = self.about["carries"]

    def __reduce__(self):
        return TokenStore, (self.folder,)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each sample."""
        # The difference of two ends without their upper bits is right, as unsigned numbers wrap around.
        return np.diff(self._ends, prepend=np.uint32(0)).astype(np.int64)

    @property
    def content_hash(self) -> str:
        """Equal for stores that hold the same samples, whatever they were made of."""
        return self.about["content_hash"]

    def sample(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and trained flags of one sample."""
        start, end = self._end(index - 1) if index else 0, self._end(index)
        first = start // 8
        bits = np.unpackbits(self._trained_bits[first : -(-end // 8)])
        return np.array(self.ids[start:end]), bits[start - first * 8 : end - first * 8].astype(bool)

    def _end(self, index: int) -> int:
        return int(self._ends[index]) + bisect.bisect_right(self._carries, index) * _LIMIT


class StoreWriter:
    """Takes samples in chunks and leaves a finished store in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = {name: open(folder / f"{name}.bin", "wb") for name in _FILES}  # noqa: SIM115
        self._hashes = {name: hashlib.blake2b(digest_size=16) for name in _FILES}
        self._open_bits = np.zeros(0, bool)
        self._num_tokens = self._num_samples = 0
        self._carries: list[int] = []

    def append(self, encoded: Encoded, row_numbers: np.ndarray, keep: np.ndarray | None = None) -> None:
        """Write the samples of one chunk, or those that `keep` (bool per sample) marks.

        `row_numbers` are the numbers in the source of the rows that the chunk encodes.
        """
        lengths = np.diff(encoded.offsets)
        ids, trained, rows = encoded.ids, encoded.trained, encoded.rows
        if keep is not None and not keep.all():
            inside = np.repeat(keep, lengths)
            ids, trained, rows, lengths = ids[inside], trained[inside], rows[keep], lengths[keep]
        numbers = row_numbers[rows]
        if len(numbers) and numbers.max() >= _LIMIT:
            raise DataError(f"more than {_LIMIT:,} rows in one data set: split it, or set streaming = True")
        self._write("ids", ids)
        self._write("rows", numbers)
        self._write_ends(lengths)
        bits = np.concatenate([self._open_bits, trained])
        whole = len(bits) // 8 * 8
        self._write("trained", np.packbits(bits[:whole]))
        self._open_bits = bits[whole:]

    def _write_ends(self, lengths: np.ndarray) -> None:
        ends = self._num_tokens + np.cumsum(lengths, dtype=np.int64)
        before = np.concatenate([[self._num_tokens], ends[:-1]])
        grown = ends // _LIMIT - before // _LIMIT
        self._carries += (self._num_samples + np.repeat(np.arange(len(ends)), grown)).tolist()
        self._write("ends", ends % _LIMIT)
        self._num_samples += len(ends)
        self._num_tokens = int(ends[-1]) if len(ends) else self._num_tokens

    def note_fault(self, message: str) -> None:
        """Put a message about a row that was left out on the list of them."""
        with open(self._folder / FAULTS, "a", encoding="utf-8") as file:
            file.write(message + "\n")

    def finish(self, **about: Any) -> None:
        """Write what is left and the description; everything is on the disk when this returns."""
        self._write("trained", np.packbits(self._open_bits))
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        self.close()
        sizes = {name: (self._folder / f"{name}.bin").stat().st_size for name in _FILES}
        about |= {"layout": _LAYOUT, "sizes": sizes, "carries": self._carries}
        about["content_hash"] = self._content_hash()
        with open(self._folder / "about.json", "w", encoding="utf-8") as described:
            json.dump(about, described, ensure_ascii=False)
            described.flush()
            os.fsync(described.fileno())

    def close(self) -> None:
        """Close the files, finished or not; all of them, though closing one may fail on a full disk."""
        with contextlib.ExitStack() as stack:
            for file in self._files.values():
                stack.callback(file.close)

    def _write(self, name: str, array: np.ndarray) -> None:
        data = np.ascontiguousarray(array, _FILES[name]).tobytes()
        self._hashes[name].update(data)
        self._files[name].write(data)

    def _content_hash(self) -> str:
        # Rows are left out: the same samples from other row numbers are the same content.
        digests = [self._hashes[name].digest() for name in ("ids", "trained", "ends")]
        return hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest()


def open_or_write(key: str, write: Callable[[StoreWriter], dict[str, Any]]) -> TokenStore:
    """The store under `key`; where there is none, `write` fills it and returns what about.json is to say."""
    folder = cache_folder() / "tokens" / key
    with _explained_disk_errors(folder):
        store = _open(folder)
        if store is not None:
            return store
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(key + ".lock"), _say_waiting):
            store = _open(folder)
            if store is None:
                for left_over in folder.parent.glob(f"{key}.*.part"):
                    shutil.rmtree(left_over, ignore_errors=True)
                _write_beside(folder, write)
                store = _open(folder)
    assert store is not None, "a store that was just written cannot be opened"
    return store


def _say_waiting(holder: str) -> None:
    say_once(f"{holder or 'another process'} is preparing the same data: waiting for it", logging.INFO)


def cache_folder() -> Path:
    """Where what can be made again is kept: $XTUNER_CACHE, ~/.cache/xtuner, else the temporary folder."""
    chosen = os.environ.get("XTUNER_CACHE")
    folder = Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "xtuner"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if writable or chosen:
        return folder
    other = Path(tempfile.gettempdir()) / f"xtuner-cache-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    say_once(f"{folder} cannot be written to: using {other}; set XTUNER_CACHE to choose another folder")
    return other


def _open(folder: Path) -> TokenStore | None:
    """The store in `folder`, or None where there is none, a file is missing or cut, or the form another."""
    try:
        about = json.loads((folder / "about.json").read_text("utf-8"))
        if about["layout"] != _LAYOUT:
            return None
        if any((folder / f"{name}.bin").stat().st_size != about["sizes"][name] for name in _FILES):
            return None
        return TokenStore(folder)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError):
        return None


def _write_beside(folder: Path, write: Callable[[StoreWriter], dict[str, Any]]) -> None:
    beside = Path(tempfile.mkdtemp(prefix=folder.name + ".", suffix=".part", dir=folder.parent))
    try:
        writer = StoreWriter(beside)
        try:
            writer.finish(**write(writer))
        finally:
            writer.close()
        # Only a damaged store can be in the way here: a whole one was looked for under the lock.
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(beside, folder)
        _sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _explained_disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        refused = error.errno in (errno.EACCES, errno.EPERM) and str(error.filename or "").startswith(
            str(folder.parent)
        )
        if not refused and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise DataError(
            f"the tokenised data cannot be written to {folder.parent}: {error.strerror or error}. "
            "Free some space there, or set XTUNER_CACHE to another folder"
        ) from error


def _map(path: Path, kind: Any) -> np.ndarray:
    # An empty file cannot be mapped.
    return np.memmap(path, kind, "r") if path.stat().st_size else np.zeros(0, kind)
