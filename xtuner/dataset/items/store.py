"""The token store: samples on disk, memory-mapped, found by a hash of their inputs.

    ~/.cache/xtuner/tokens/<key>/      (or $XTUNER_CACHE/tokens/<key>/)
        ids.bin       int32, the tokens of all samples one after the other
        trained.bin   the loss mask, one bit per token
        ends.bin      uint32, sample i is ids[ends[i - 1]:ends[i]], the first one ids[:ends[0]]
        rows.bin      uint32, the source row of sample i
        NAME.npy      another column of numbers, one for each sample, of data sets that need one
        NAME-HASH.npy a column that was computed later: see `save_later`
        about.json    hashes of the files, carries, and the counts to report
        faults.txt    position and fault of each row that was left out, if any

`ends` are stored modulo 2 ** 32: `carries` lists the samples at which the upper bits grow by one. A store
needs at most 4.2 bytes per token for samples of 107 tokens or more.

A store is complete or absent: it is written to a temporary folder, synced and renamed. The first process that
needs a missing store writes it under a lock; the others wait and then map the same files.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from xtuner.atomic import written
from xtuner.cache import cache_folder, explained_disk_errors
from xtuner.dataset.encoding.conversations import Encoded
from xtuner.errors import DataError
from xtuner.language import translate
from xtuner.locks import locked
from xtuner.log import say_once

_FILES = {"ids": np.int32, "trained": np.uint8, "ends": np.uint32, "rows": np.uint32}
FAULTS = "faults.txt"
_LAYOUT = 3
"""The version of the file format; increased with every change."""

_LIMIT = 1 << 32
"""Row numbers are smaller; the upper bits of larger ends are in the carries."""


class TokenStore:
    """Samples by number; cheap to pickle, as another process opens the same files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about: dict[str, Any] = json.loads((folder / "about.json").read_text("utf-8"))
        arrays = {name: _map(folder / f"{name}.bin", kind) for name, kind in _FILES.items()}
        self.ids, self._trained_bits = arrays["ids"], arrays["trained"]
        self._ends, self.rows = arrays["ends"], arrays["rows"]
        self._carries: list[int] = self.about["carries"]

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenStore, (self.folder,)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each sample."""
        # Unsigned differences are correct without the upper bits.
        return np.diff(self._ends, prepend=np.uint32(0)).astype(np.int64)

    def column(self, name: str) -> np.ndarray:
        """The numbers that were written under this name."""
        return np.load(self.folder / f"{name}.npy", "r")

    def later(self, name: str) -> np.ndarray | None:
        """The numbers that `save_later` wrote under this name; None if there are none, or damaged ones."""
        for path in self.folder.glob(f"{name}-*.npy"):
            if path.stem == f"{name}-{_digest(path)}":
                return np.load(path, "r")
        return None

    def save_later(self, name: str, numbers: np.ndarray) -> None:
        """Keep `numbers`, one for each sample, beside the store, in place of those of the same name."""
        old = set(self.folder.glob(f"{name}-*.npy"))
        with explained_disk_errors(self.folder, translate("the log-probabilities of the reference")):
            with written(self.folder / f"{name}.new", shared=True) as part, open(part, "wb") as file:
                np.save(file, numbers, allow_pickle=False)
            new = self.folder / f"{name}.new"
            path = new.with_name(f"{name}-{_digest(new)}.npy")
            os.replace(new, path)
        for other in old - {path}:
            other.unlink(missing_ok=True)

    @property
    def content_hash(self) -> str:
        """A hash, equal for stores with the same samples."""
        # Without rows: the same samples with other row numbers are the same content.
        hashes = [bytes.fromhex(self.about["hashes"][name]) for name in ("ids", "trained", "ends")]
        return hashlib.blake2b(b"".join(hashes), digest_size=16).hexdigest()

    def sample(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and loss mask of one sample."""
        start, end = self._end(index - 1) if index else 0, self._end(index)
        first = start // 8
        bits = np.unpackbits(self._trained_bits[first : -(-end // 8)])
        return np.array(self.ids[start:end]), bits[start - first * 8 : end - first * 8].astype(bool)

    def _end(self, index: int) -> int:
        return int(self._ends[index]) + bisect.bisect_right(self._carries, index) * _LIMIT


class StoreWriter:
    """Writes samples in chunks to a store in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = {name: open(folder / f"{name}.bin", "wb") for name in _FILES}  # noqa: SIM115
        self._hashes = {name: hashlib.blake2b(digest_size=16) for name in _FILES}
        self._open_bits = np.zeros(0, bool)
        self._num_tokens = self._num_samples = 0
        self._carries: list[int] = []
        self._columns: dict[str, str] = {}

    def add_column(self, name: str, numbers: np.ndarray) -> None:
        """Keep `numbers` beside the samples."""
        path = self._folder / f"{name}.npy"
        with open(path, "wb") as file:
            np.save(file, numbers, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        self._columns[name] = _digest(path)

    def append(self, encoded: Encoded, row_numbers: np.ndarray, keep: np.ndarray | None = None) -> None:
        """Write the samples of one chunk, or only those with `keep` (bool per sample).

        `row_numbers` are the numbers in the source of the rows of the chunk.
        """
        lengths = np.diff(encoded.offsets)
        ids, trained, rows = encoded.ids, encoded.trained, encoded.rows
        if keep is not None and not keep.all():
            inside = np.repeat(keep, lengths)
            ids, trained, rows, lengths = ids[inside], trained[inside], rows[keep], lengths[keep]
        numbers = row_numbers[rows]
        if len(numbers) and numbers.max() >= _LIMIT:
            raise DataError(
                translate(
                    "more than {limit:,} rows in one data set: split it, or set streaming = True",
                    limit=_LIMIT,
                )
            )
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
        """Append a message about a row that was left out to the file of faults."""
        with open(self._folder / FAULTS, "a", encoding="utf-8") as file:
            file.write(message + "\n")

    def finish(self, **about: Any) -> None:
        """Write the last bits and about.json, and sync all files to disk."""
        self._write("trained", np.packbits(self._open_bits))
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        self.close()
        hashes = {name: digest.hexdigest() for name, digest in self._hashes.items()}
        about |= {"layout": _LAYOUT, "hashes": hashes, "carries": self._carries}
        about |= {"columns": self._columns} if self._columns else {}
        text = json.dumps(about, ensure_ascii=False)
        with open(self._folder / "about.json", "w", encoding="utf-8") as about_file:
            about_file.write(text)
            about_file.flush()
            os.fsync(about_file.fileno())

    def close(self) -> None:
        """Close all files, even if closing one fails on a full disk."""
        with contextlib.ExitStack() as stack:
            for file in self._files.values():
                stack.callback(file.close)

    def _write(self, name: str, array: np.ndarray) -> None:
        data = np.ascontiguousarray(array, _FILES[name]).tobytes()
        self._hashes[name].update(data)
        self._files[name].write(data)


def open_or_write(key: str, write: Callable[[StoreWriter], dict[str, Any]]) -> TokenStore:
    """The store under `key`; `write` fills a missing one and returns the content of its about.json."""
    folder = cache_folder() / "tokens" / key
    with explained_disk_errors(folder, translate("the tokenised data")):
        store = _open(folder)
        if store is not None:
            return store
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(key + ".lock"), _say_waiting):
            store = _open(folder)
            if store is None:
                _write_store(folder, write)
                store = _open(folder)
    assert store is not None, "a store that was just written cannot be opened"
    return store


def _say_waiting(holder: str) -> None:
    say_once(
        "{who} is preparing the same data: waiting for it",
        logging.INFO,
        who=holder or translate("another process"),
    )


def _open(folder: Path) -> TokenStore | None:
    """The store in `folder`, or None if it is missing, of another version or damaged."""
    try:
        about = json.loads((folder / "about.json").read_text("utf-8"))
        if about["layout"] != _LAYOUT:
            return None
        hashes = {f"{name}.bin": about["hashes"][name] for name in _FILES}
        hashes |= {f"{name}.npy": found for name, found in about.get("columns", {}).items()}
        damaged = [name for name, found in hashes.items() if _digest(folder / name) != found]
        if not damaged:
            return TokenStore(folder)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError):
        return None
    say_once(
        "the cached tokens in {folder} are damaged ({name}): they are made again",
        folder=folder,
        name=damaged[0],
    )
    return None


def _digest(path: Path) -> str:
    """The hash of a file's content; takes about a second per gigabyte (240 million tokens)."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _write_store(folder: Path, write: Callable[[StoreWriter], dict[str, Any]]) -> None:
    with written(folder) as part:
        part.mkdir()
        writer = StoreWriter(part)
        try:
            writer.finish(**write(writer))
        finally:
            writer.close()


def _map(path: Path, kind: Any) -> np.ndarray:
    # An empty file cannot be mapped.
    return np.memmap(path, kind, "r") if path.stat().st_size else np.zeros(0, kind)
