"""The samplers of configs besides the default: infinite, without remainder, grouped by length.

Their base, and the division among processes, is in `xtuner.parallel.sampler`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.parallel.sampler import DefaultSampler, Sampler

__all__ = ["DefaultSampler", "InfiniteSampler", "InternRepoSampler", "LengthGroupedSampler"]


class InfiniteSampler(DefaultSampler):
    """As DefaultSampler, with endless epochs."""

    def __init__(
        self,
        dataset: Any,
        shuffle: bool = True,
        seed: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__(dataset, shuffle, seed, rank=rank, world_size=world_size)

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from self.order().tolist()
            self.epoch += 1


class InternRepoSampler(DefaultSampler):
    """As DefaultSampler, but drops the remainder of the items divided by the number of processes."""

    def __init__(
        self,
        dataset: Any,
        shuffle: bool = True,
        seed: int | None = 1024,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__(dataset, shuffle, seed, False, rank, world_size)

    @property
    def total_size(self) -> int:
        """The number of items that all processes read together in an epoch."""
        return len(self.dataset) // self.world_size * self.world_size


class LengthGroupedSampler(Sampler):
    """Batches of items of about equal length, to reduce padding.

    Each group of `mega_batch_mult` random batches is sorted by length; the longest item of all comes first,
    so that the first iter shows a lack of memory. A negative length marks an item without an image; such
    items are not in a batch with others.
    """

    def __init__(
        self,
        dataset: Any,
        per_device_batch_size: int,
        length_property: str = "length",
        mega_batch_mult: int | None = None,
        seed: int | None = None,
        round_up: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__(dataset, seed, round_up, rank, world_size)
        if length_property not in ("length", "modality_length"):
            raise ConfigError(
                translate(
                    "length_property is {length_property!r}: it must be 'length' or 'modality_length'",
                    length_property=length_property,
                )
            )
        self.batch_size = per_device_batch_size * self.world_size
        self.lengths = np.asarray(getattr(dataset, length_property))
        if mega_batch_mult is None:
            mega_batch_mult = max(1, min(len(dataset) // (self.batch_size * 4), 50))
        self.mega_batch_size = mega_batch_mult * self.batch_size

    def _whole_order(self) -> np.ndarray:
        random = self._random()
        with_image = np.flatnonzero(self.lengths > 0)
        without_image = np.flatnonzero(self.lengths <= 0)
        if not len(without_image) or not len(with_image):
            return self._grouped(np.arange(len(self.lengths)), random)
        parts = [self._grouped(numbers, random) for numbers in (with_image, without_image)]
        whole = [part[: len(part) // self.batch_size * self.batch_size] for part in parts]
        batches = np.concatenate(whole).reshape(-1, self.batch_size)
        left = np.concatenate([part[len(kept) :] for part, kept in zip(parts, whole, strict=True)])
        return np.concatenate([random.permutation(batches).ravel(), left])

    def _grouped(self, numbers: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """`numbers` in random mega batches, each sorted by length; the longest item comes first."""
        shuffled = random.permutation(numbers)
        if len(shuffled):
            longest = int(np.argmax(np.abs(self.lengths[shuffled])))
            shuffled[[0, longest]] = shuffled[[longest, 0]]
        starts = range(0, len(shuffled), self.mega_batch_size)
        groups = [shuffled[start : start + self.mega_batch_size] for start in starts]
        by_length = [group[np.argsort(-np.abs(self.lengths[group]), kind="stable")] for group in groups]
        return np.concatenate([*by_length, shuffled[:0]])
