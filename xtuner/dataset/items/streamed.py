"""Items of data that is never tokenised as a whole: read, encoded and packed one buffer of rows at a time.

    rows          r0 r1 r2 r3 r4 r5 r6 r7 ...
    2 readers     reader 0: r0 r2 r4 r6 ...               reader 1: r1 r3 r5 r7 ...
    buffers of 2  reader 0: [r0 r2] -> items in random order | [r4 r6] -> items | ... | epoch 1: [r0 r2] ...
    position      epoch, number of the buffer, items of it that are out, and where its rows begin in the files

A position is a few numbers, and going on from it reads one buffer again, however far in the data it is. Which
items come, and in which order, follows from the rows, the settings, the seed and the number of readers alone.
Samples share an item, and are shuffled, only within a buffer.
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
"""A buffer ends here though it has fewer rows than it may have."""

_EDGE = 1 << 20
"""Of a file, so many bytes at its begin and its end tell it from others, together with its size."""

Row = Mapping[str, Any]


class Position(NamedTuple):
    """How far a reader is; `cursor` is where the rows of the present buffer begin."""

    epoch: int = 0
    buffer: int = 0
    items_out: int = 0
    cursor: Cursor = Cursor()

    def numbers(self) -> list[int]:
        """The position as plain numbers, as a checkpoint keeps it."""
        return [self.epoch, self.buffer, self.items_out, *self.cursor]

    @classmethod
    def of(cls, numbers: Sequence[int]) -> Position:
        """The position that `numbers` tell."""
        epoch, buffer, items_out, *cursor = numbers
        return cls(epoch, buffer, items_out, Cursor(*cursor))


class Streamed(NamedTuple):
    """An item, the position behind it, where its rows stand, and what is to be logged, if anything."""

    item: Item
    position: Any
    rows: list[tuple[int, ...]]
    messages: list[tuple[str, bool]]  # a line, and whether it is a warning


class Stream(ABC):
    """Endless items, to be read from any position on; a position has `numbers()` for a checkpoint."""

    @property
    @abstractmethod
    def key(self) -> str:
        """A hash of data and settings."""

    @abstractmethod
    def position(self, numbers: Sequence[int] = ()) -> Any:
        """The position that `numbers` tell; without them, the beginning."""

    @abstractmethod
    def read(self, reader: int = 0, num_readers: int = 1, start: Any = None) -> Iterator[Streamed]:
        """The items of reader number `reader`, from `start` on and without end.

        Each row is read by one reader, once in every epoch. Raises DataError where a whole epoch has nothing
        to train on.
        """

    @abstractmethod
    def first_buffer(self) -> Any:
        """The items of the first rows, to look at."""

    @abstractmethod
    def source_places(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Where the rows of an item stand, for messages."""


@dataclass(frozen=True)
class StreamedDataset(Stream):
    """Endless items of `sources`, a list of row sources; without a length, as the rows are not counted."""

    sources: Sequence[Any]
    settings: Encoding
    buffer_size: int
    packs: bool = True
    shuffle: bool = True
    keeps_columns: bool = False
    seed: int = 0

    @functools.cached_property
    def key(self) -> str:
        """A hash of the data, as far as sizes and ends of its files tell, and of all settings."""
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
        """The position that `numbers` tell; without them, the beginning."""
        return Position.of(numbers) if numbers else Position()

    def read(self, reader: int = 0, num_readers: int = 1, start: Any = None) -> Iterator[Streamed]:
        """The items of reader number `reader`, from `start` on and without end."""
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
        """The items of the first rows, to look at."""
        tally = Tally()
        buffer = self._fill(Cursor(), 0, 1)
        items = self._encode(buffer, tally, [self.seed, 0, 0, 0])
        if not len(items):
            raise DataError(_nothing(self.sources, tally, 0, 1))
        items.stats = item_stats(tally.about()["stats"], len(items), self.settings.max_length)
        return items

    def source_places(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Where the rows of an item stand, for messages."""
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
    """Some rows in memory, numbered from 0; `next` is where reading goes on, None at the end of the data."""

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
        """The tally keeps the first ones, and there is no place for more."""

    def join(self) -> None:
        """Include what was appended."""
        self.lengths = np.concatenate(self._lengths)
        self.rows = np.concatenate(self._rows)
        self._ids = np.concatenate([np.zeros(0, np.int32), *(ids for ids, _ in self._chunks)])
        self._trained = np.concatenate([np.zeros(0, bool), *(trained for _, trained in self._chunks)])
        self._chunks.clear()
        self._ends = np.concatenate([[0], np.cumsum(self.lengths)])

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        span = slice(int(self._ends[index]), int(self._ends[index + 1]))
        return self._ids[span], self._trained[span]


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
    for one in source.files:
        size = os.path.getsize(one.path)
        digest.update(f"{one.path.suffix} {size}\n".encode())
        with open(one.path, "rb") as file:
            digest.update(file.read(_EDGE))
            file.seek(max(0, size - _EDGE))
            digest.update(file.read(_EDGE))
    return digest.hexdigest()
