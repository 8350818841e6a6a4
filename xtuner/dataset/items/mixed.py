"""Several streams as one, mixed by weights.

    datasets A, B, weights [2, 1]     A0 B0 A1 A2 B1 A3 ...        after n items, two thirds are of A

The next stream follows from the number of items taken of each, so that a position is only a few numbers.
Each stream starts again after its end; a buffer of each is in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from xtuner.dataset.concat_dataset import ConcatDataset
from xtuner.dataset.items.streamed import Stream, Streamed
from xtuner.errors import ConfigError
from xtuner.language import translate


class MixedPosition(NamedTuple):
    """The number of items taken of each stream, and its position."""

    taken: tuple[int, ...]
    positions: tuple[Any, ...]

    def numbers(self) -> list[int]:
        """The position as plain numbers, for a checkpoint."""
        pairs = zip(self.taken, self.positions, strict=True)
        return [number for taken, position in pairs for number in (taken, *position.numbers())]


class MixedStream(Stream):
    """The items of `datasets` (made with streaming = True), mixed by `weights`; equal by default."""

    def __init__(self, datasets: Sequence[Any], weights: Sequence[float] | None = None) -> None:
        self.datasets = list(datasets)
        weights = [1.0] * len(self.datasets) if weights is None else list(weights)
        if not self.datasets or not all(isinstance(dataset, Stream) for dataset in self.datasets):
            raise ConfigError(
                translate(
                    "MixedStream.datasets needs one or more of process_hf_dataset with streaming = "
                    "True; others are mixed by ConcatDataset"
                )
            )
        if len(weights) != len(self.datasets) or not all(weight > 0 for weight in weights):
            raise ConfigError(
                translate(
                    "MixedStream.weights is {weights}: it needs {count} numbers above 0, one for each "
                    "data set",
                    weights=weights,
                    count=len(self.datasets),
                )
            )
        self._fractions = [weight / sum(weights) for weight in weights]

    @property
    def key(self) -> str:
        """A hash of the keys and fractions of all data sets."""
        words = [*(dataset.key for dataset in self.datasets), repr(self._fractions)]
        return hashlib.blake2b("\n".join(words).encode(), digest_size=16).hexdigest()

    def position(self, numbers: Sequence[int] = ()) -> MixedPosition:
        """The position of `numbers`; the beginning without them."""
        taken, positions = [], []
        left = list(numbers)
        for dataset in self.datasets:
            beginning = dataset.position()
            size = len(beginning.numbers()) if left else 0
            taken.append(left.pop(0) if left else 0)
            positions.append(dataset.position(left[:size]) if size else beginning)
            left = left[size:]
        return MixedPosition(tuple(taken), tuple(positions))

    def read(self, reader: int = 0, num_readers: int = 1, start: Any = None) -> Iterator[Streamed]:
        """The endless items of reader number `reader` from `start` on."""
        start = start or self.position()
        taken, positions = list(start.taken), list(start.positions)
        streams = [
            dataset.read(reader, num_readers, position)
            for dataset, position in zip(self.datasets, positions, strict=True)
        ]
        while True:
            total = sum(taken) + 1
            behind = [goal * total - count for goal, count in zip(self._fractions, taken, strict=True)]
            number = behind.index(max(behind))
            item, positions[number], rows, messages = next(streams[number])
            taken[number] += 1
            position = MixedPosition(tuple(taken), tuple(positions))
            yield Streamed(item, position, [(number, *cursor) for cursor in rows], messages)

    def first_buffer(self) -> ConcatDataset:
        """The items of the first rows of each, for inspection."""
        return ConcatDataset([dataset.first_buffer() for dataset in self.datasets])

    def source_places(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The positions of the rows of an item, for messages."""
        return [place for number, *row in rows for place in self.datasets[number].source_places([row])]
