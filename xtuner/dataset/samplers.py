"""In which order each process reads the items.

    6 items, 2 processes, shuffled    order [4 1 5 0 3 2]    process 0: 4 5 3    process 1: 1 0 2

The order depends on seed, epoch and the number of processes alone, so a run that goes on after a stop skips
what was read by taking the rest of `order()`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from xtuner import dist
from xtuner.errors import ConfigError


class _Sampler:
    """One process's share of an order of all items, in turns: process r reads items r, r + n, r + 2n, ..."""

    def __init__(self, dataset: Any, seed: int | None, round_up: bool) -> None:
        self.dataset = dataset
        self.rank = dist.rank()
        self.world_size = dist.world_size()
        self.seed = 0 if seed is None else seed
        self.epoch = 0
        self.round_up = round_up

    @property
    def total_size(self) -> int:
        """The number of items that all processes read together in an epoch."""
        count = len(self.dataset)
        return -(-count // self.world_size) * self.world_size if self.round_up else count

    @property
    def num_samples(self) -> int:
        """The number of items that this process reads in an epoch."""
        return max(0, -(-(self.total_size - self.rank) // self.world_size))

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        return iter(self.order().tolist())

    def set_epoch(self, epoch: int) -> None:
        """Take the order of this epoch from now on."""
        self.epoch = epoch

    def order(self) -> np.ndarray:
        """The item numbers that this process reads in this epoch."""
        whole = self._whole_order()
        # The first items are read again where the number of processes does not divide the number of items.
        return np.resize(whole, self.total_size)[self.rank :: self.world_size]

    def _whole_order(self) -> np.ndarray:
        raise AssertionError("each sampler has its own order")

    def _random(self) -> np.random.Generator:
        return np.random.default_rng(self.seed + self.epoch)


class DefaultSampler(_Sampler):
    """All items once per epoch, shuffled anew in each or in their order.

    With `round_up` every process reads equally many, and the first items make up for what is missing.
    """

    def __init__(
        self, dataset: Any, shuffle: bool = True, seed: int | None = None, round_up: bool = True
    ) -> None:
        super().__init__(dataset, seed, round_up)
        self.shuffle = shuffle

    def _whole_order(self) -> np.ndarray:
        count = len(self.dataset)
        return self._random().permutation(count) if self.shuffle else np.arange(count)


class InfiniteSampler(DefaultSampler):
    """As DefaultSampler, with one epoch after the other and no end."""

    def __init__(self, dataset: Any, shuffle: bool = True, seed: int | None = None) -> None:
        super().__init__(dataset, shuffle, seed)

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from self.order().tolist()
            self.epoch += 1


class InternRepoSampler(DefaultSampler):
    """As DefaultSampler, but the items that the number of processes leaves over are not read."""

    def __init__(self, dataset: Any, shuffle: bool = True, seed: int | None = 1024) -> None:
        super().__init__(dataset, shuffle, seed, round_up=False)

    @property
    def total_size(self) -> int:
        """The number of items that all processes read together in an epoch."""
        return len(self.dataset) // self.world_size * self.world_size


class LengthGroupedSampler(_Sampler):
    """Batches of items of about equal length, so that little of them is padding.

    Random items are taken `mega_batch_mult` batches at a time and sorted by length inside; the longest item
    of all comes first, so that a lack of memory shows at once. A negative length marks an item without a
    picture; such items do not share a batch with others.
    """

    def __init__(
        self,
        dataset: Any,
        per_device_batch_size: int,
        length_property: str = "length",
        mega_batch_mult: int | None = None,
        seed: int | None = None,
        round_up: bool = True,
    ) -> None:
        super().__init__(dataset, seed, round_up)
        if length_property not in ("length", "modality_length"):
            raise ConfigError(
                f"length_property is {length_property!r}: it must be 'length' or 'modality_length'"
            )
        self.batch_size = per_device_batch_size * self.world_size
        self.lengths = np.asarray(getattr(dataset, length_property))
        if mega_batch_mult is None:
            mega_batch_mult = max(1, min(len(dataset) // (self.batch_size * 4), 50))
        self.mega_batch_size = mega_batch_mult * self.batch_size

    def _whole_order(self) -> np.ndarray:
        random = self._random()
        with_picture = np.flatnonzero(self.lengths > 0)
        without = np.flatnonzero(self.lengths <= 0)
        if not len(without) or not len(with_picture):
            return self._grouped(np.arange(len(self.lengths)), random)
        parts = [self._grouped(numbers, random) for numbers in (with_picture, without)]
        whole = [part[: len(part) // self.batch_size * self.batch_size] for part in parts]
        batches = np.concatenate(whole).reshape(-1, self.batch_size)
        left = np.concatenate([part[len(kept) :] for part, kept in zip(parts, whole, strict=True)])
        return np.concatenate([random.permutation(batches).ravel(), left])

    def _grouped(self, numbers: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """`numbers` in random mega batches, each sorted by length, the longest item first of all."""
        shuffled = random.permutation(numbers)
        if len(shuffled):
            longest = int(np.argmax(np.abs(self.lengths[shuffled])))
            shuffled[[0, longest]] = shuffled[[longest, 0]]
        starts = range(0, len(shuffled), self.mega_batch_size)
        groups = [shuffled[start : start + self.mega_batch_size] for start in starts]
        by_length = [group[np.argsort(-np.abs(self.lengths[group]), kind="stable")] for group in groups]
        return np.concatenate([*by_length, shuffled[:0]])
