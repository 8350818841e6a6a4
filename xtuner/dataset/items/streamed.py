"""Streaming: read, encode and pack one buffer of rows at a time.

    rows          r0 r1 r2 r3 r4 r5 r6 r7 ...
    2 readers     reader 0: r0 r2 r4 r6 ...               reader 1: r1 r3 r5 r7 ...
    buffers of 2  reader 0: [r0 r2] -> items in random order | [r4 r6] -> items | ... | epoch 1: [r0 r2] ...
    position      epoch, number of the buffer, number of its items read, start of its rows in the files

A position is a few numbers, and resuming from it reads one buffer again, at any position of the data. Items
and their order depend on the rows, the settings, the seed and the number of readers alone. Samples are packed
and shuffled only within a buffer.
"""

from __future__ import annotations

import functools
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from xtuner.dataset.encoding import fingerprint
from xtuner.dataset.encoding.conversations import Encoded
from xtuner.dataset.encoding.pipeline import Encoding, Tally, encode_rows
from xtuner.dataset.items import packing
from xtuner.dataset.items.packed_dataset import Item, PackedDataset
from xtuner.dataset.items.summary import item_stats, summary, warnings_of
from xtuner.dataset.items.worker_seeds import seed_worker
from xtuner.dataset.reading.files import FileRows
from xtuner.dataset.reading.selection import Cursor, place_at, scan
from xtuner.errors import DataError
from xtuner.language import translate

BUFFER_ROWS = 10_000
BUFFER_CHARACTERS = 50_000_000
"""A buffer with this many characters ends, even with fewer rows than `buffer_size`."""

_EDGE = 1 << 20
"""Bytes at the beginning and end of a file that identify it, together with its size."""

Row = Mapping[str, Any]


class Position(NamedTuple):
    """The position of a reader; `cursor` is the start of the rows of the current buffer."""

    epoch: int = 0
    buffer: int = 0
    items_out: int = 0
    cursor: Cursor = Cursor()

    def numbers(self) -> list[int]:
        """The position as plain numbers, for a checkpoint."""
        return [self.epoch, self.buffer, self.items_out, *self.cursor]

    @classmethod
    def of(cls, numbers: Sequence[int]) -> Position:
        """The position of `numbers`."""
        epoch, buffer, items_out, *cursor = numbers
        return cls(epoch, buffer, items_out, Cursor(*cursor))


class Streamed(NamedTuple):
    """An item, the position after it, the cursors of its rows, and the messages to log."""

    item: Item
    position: Any
    rows: list[tuple[int, ...]]
    messages: list[tuple[str, bool]]  # text, is_warning


class Stream(ABC):
    """Endless items, readable from any position; a position has `numbers()` for a checkpoint."""

    @property
    @abstractmethod
    def key(self) -> str:
        """A hash of data and settings."""

    @abstractmethod
    def position(self, numbers: Sequence[int] = ()) -> Any:
        """The position of `numbers`; the beginning without them."""

    @abstractmethod
    def read(self, reader: int = 0, num_readers: int = 1, start: Any = None) -> Iterator[Streamed]:
        """The endless items of reader number `reader` from `start` on.

        One reader reads each row, once per epoch. Raises DataError if a whole epoch has no supervised tokens.
        """

    @abstractmethod
    def first_buffer(self) -> Any:
        """The items of the first rows, for inspection."""

    @abstractmethod
    def source_places(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The positions of the rows of an item, for messages."""


@dataclass(frozen=True)
class StreamedDataset(Stream):
    """Endless items of `sources`, a list of row sources; it has no length, as the rows are not counted."""

    sources: Sequence[Any]
    settings: Encoding
    buffer_size: int
    packs: bool = True
    shuffle: bool = True
    keeps_columns: bool = False
    seed: int = 0

    @functools.cached_property
    def key(self) -> str:
        """A hash of sizes, beginnings and ends of the files, and of all settings."""
        try:
            functions = fingerprint.fingerprint_value(
                [self.settings.dataset_map_fn, self.settings.template_map_fn]
            )
        except fingerprint.UnidentifiableError:
            functions = "unknown"
        settings = self.settings
        return fingerprint.fingerprint_value(
            [
                [_fingerprint_edges(source) for source in self.sources],
                fingerprint.fingerprint_tokenizer(settings.tokenizer),
                [functions, settings.max_length, settings.rename_maps],
                [settings.input_ids_with_output, settings.with_image_token, settings.one_sample_per_turn],
                [self.buffer_size, self.packs, self.shuffle, self.seed],
            ]
        )

    def position(self, numbers: Sequence[int] = ()) -> Position:
        """The position of `numbers`; the beginning without them."""
        return Position.of(numbers) if numbers else Position()

    def read(self, reader: int = 0, num_readers: int = 1, start: Any = None) -> Iterator[Streamed]:
        """The endless items of reader number `reader` from `start` on."""
        progress = _Progress()
        position: Position = start or Position()
        is_whole_epoch = position == Position(position.epoch)
        num_items = 0
        while True:
            buffer = self._fill(position.cursor, reader, num_readers)
            seeds = [self.seed, position.epoch, position.buffer, reader]
            seed_worker(*seeds, 0)
            items = self._encode(buffer, progress.tally, seeds)
            progress.count(len(items), buffer.next is None, self.settings.max_length)
            for number in range(position.items_out, len(items)):
                num_items += 1
                rows: list[Any] = [buffer.cursors[row] for row in dict.fromkeys(items.source_rows(number))]
                seed_worker(*seeds, number + 1)
                yield Streamed(items[number], position._replace(items_out=number + 1), rows, progress.take())
            if buffer.next is not None:
                position = Position(position.epoch, position.buffer + 1, 0, buffer.next)
                continue
            if is_whole_epoch and not num_items:
                raise DataError(_nothing(self.sources, progress.tally, reader, num_readers))
            position, is_whole_epoch, num_items = Position(position.epoch + 1), True, 0

    def first_buffer(self) -> PackedDataset:
        """The items of the first rows, for inspection."""
        tally = Tally()
        buffer = self._fill(Cursor(), 0, 1)
        items = self._encode(buffer, tally, [self.seed, 0, 0, 0])
        if not len(items):
            raise DataError(_nothing(self.sources, tally, 0, 1))
        items.stats = item_stats(tally.about()["stats"], len(items), self.settings.max_length)
        return items

    def source_places(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The positions of the rows of an item, for messages."""
        return [place_at(self.sources, Cursor(*row)) for row in rows]

    def _fill(self, start: Cursor, reader: int, num_readers: int) -> _Buffer:
        buffer = _Buffer(self.sources)
        characters = 0
        for found in scan(self.sources, start):
            if len(buffer.rows) == self.buffer_size or characters >= BUFFER_CHARACTERS:
                buffer.next = found.cursor
                break
            if found.cursor.row % num_readers == reader:
                try:
                    row: Row | DataError = found.read()
                    characters += _count_characters(row)
                except DataError as error:
                    row = error
                buffer.rows.append(row)
                buffer.cursors.append(found.cursor)
        return buffer

    def _encode(self, buffer: _Buffer, tally: Tally, seeds: list[int]) -> PackedDataset:
        samples = _Samples()
        encode_rows(buffer, self.settings, samples, tally)
        samples.join()
        plan = self._plan(samples.lengths, seeds)
        return PackedDataset(samples, plan, {}, buffer.place, buffer.row if self.keeps_columns else None)

    def _plan(self, lengths: np.ndarray, seeds: list[int]) -> packing.PackPlan:
        max_length = self.settings.max_length
        if self.packs:
            assert max_length is not None, "packing needs a length"
            if self.shuffle:
                return packing.plan_packs(lengths, max_length, seeds)
            return packing.plan_in_order(lengths, max_length)
        single = packing.plan_single(len(lengths))
        if not self.shuffle:
            return single
        return packing.PackPlan(np.random.default_rng(seeds).permutation(single.order), single.boundaries)


@dataclass
class _Buffer:
    """Rows in memory, numbered from 0; `next` is the cursor after them, None at the end of the data."""

    sources: Sequence[Any]
    rows: list[Row | DataError] = field(default_factory=list)
    cursors: list[Cursor] = field(default_factory=list)
    next: Cursor | None = None

    def unread(self) -> Iterator[tuple[int, Callable[[], Row]]]:
        for number in range(len(self.rows)):
            yield number, functools.partial(self.row, number)

    def row(self, number: int) -> Row:
        row = self.rows[number]
        if isinstance(row, DataError):
            raise row
        return row

    def place(self, number: int) -> str:
        return place_at(self.sources, self.cursors[number])


class _Samples:
    """The samples of a buffer, in memory."""

    content_hash = ""

    def __init__(self) -> None:
        self._chunks: list[tuple[np.ndarray, np.ndarray]] = []
        self._lengths: list[np.ndarray] = [np.zeros(0, np.int64)]
        self._rows: list[np.ndarray] = [np.zeros(0, np.int64)]

    def append(self, encoded: Encoded, row_numbers: np.ndarray, keep: np.ndarray | None = None) -> None:
        lengths = np.diff(encoded.offsets)
        keep = np.ones(len(lengths), bool) if keep is None else keep
        inside = np.repeat(keep, lengths)
        self._chunks.append((encoded.ids[inside], encoded.trained[inside]))
        self._lengths.append(lengths[keep])
        self._rows.append(row_numbers[encoded.rows[keep]])

    def note_fault(self, message: str) -> None:
        """Does nothing: the tally keeps the first messages, and there is no file for more."""

    def join(self) -> None:
        """Join the appended samples."""
        self.lengths = np.concatenate(self._lengths)
        self.rows = np.concatenate(self._rows)
        self._ids = np.concatenate([np.zeros(0, np.int32), *(ids for ids, _ in self._chunks)])
        self._masks = np.concatenate([np.zeros(0, bool), *(mask for _, mask in self._chunks)])
        self._chunks.clear()
        self._ends = np.concatenate([[0], np.cumsum(self.lengths)])

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        span = slice(int(self._ends[index]), int(self._ends[index + 1]))
        return self._ids[span], self._masks[span]


class _Progress:
    """The counts of one reader, logged at buffers 1, 2, 4, 8, ... and at the end of an epoch."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._num_items = self._num_buffers = 0
        self._messages: list[tuple[str, bool]] = []

    def count(self, num_items: int, ends_epoch: bool, max_length: int | None) -> None:
        self._num_items += num_items
        self._num_buffers += 1
        stats = self.tally.about()["stats"]
        if not stats["tokens"] or not (ends_epoch or self._num_buffers.bit_count() == 1):
            return
        self._messages = [
            (summary(item_stats(stats, self._num_items, max_length), max_length, max_length), False)
        ]
        self._messages += [(line, True) for line in warnings_of(stats)]

    def take(self) -> list[tuple[str, bool]]:
        messages, self._messages = self._messages, []
        return messages


def _count_characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_count_characters, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_count_characters, value))
    return 0


def _nothing(sources: Sequence[Any], tally: Tally, reader: int, num_readers: int) -> str:
    rows = tally.stats["rows"]
    names = ", ".join(str(getattr(source, "name", None) or repr(source))[:200] for source in sources)
    if not rows and num_readers > 1:
        return translate(
            "reader {reader} of {readers} gets no row of {names}: use fewer processes or workers",
            reader=reader + 1,
            readers=num_readers,
            names=names,
        )
    if not rows:
        return translate("the data is empty: there are no rows in {names}", names=names)
    return translate("none of the {rows:,} rows has anything to train on in {names}", rows=rows, names=names)


def _fingerprint_edges(source: Any) -> str:
    if not isinstance(source, FileRows):
        return fingerprint.fingerprint_rows(source)
    digest = hashlib.blake2b(digest_size=16)
    for file in source.files:
        size = os.path.getsize(file.path)
        digest.update(f"{file.path.suffix} {size}\n".encode())
        with open(file.path, "rb") as content:
            digest.update(content.read(_EDGE))
            content.seek(max(0, size - _EDGE))
            digest.update(content.read(_EDGE))
    return digest.hexdigest()
