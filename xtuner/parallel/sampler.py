"""The order in which each process reads the items.

    6 items, 2 processes, shuffled    order [4 1 5 0 3 2]    process 0: 4 5 3    process 1: 1 0 2

The order depends only on seed, epoch and the number of items. All processes together read consecutive items
of it, so two processes read in one iter what one reads in two; a resumed run reads the rest of `order()`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from xtuner import dist


class Sampler:
    """The items of one process in an order of all: process r of n reads items r, r + n, r + 2n, ..."""

    def __init__(
        self,
        dataset: Any,
        seed: int | None,
        round_up: bool,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.dataset = dataset
        # Under sequence parallelism the sequence-parallel ranks count as one reader.
        self.rank = dist.rank() if rank is None else rank
        self.world_size = dist.world_size() if world_size is None else world_size
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
        """Use the order of this epoch from now on."""
        self.epoch = epoch

    def order(self) -> np.ndarray:
        """The item numbers that this process reads in this epoch."""
        whole = self._whole_order()
        # The first items are read again if the number of processes does not divide the number of items.
        return np.resize(whole, self.total_size)[self.rank :: self.world_size]

    def _whole_order(self) -> np.ndarray:
        raise AssertionError("each sampler has its own order")

    def _random(self) -> np.random.Generator:
        return np.random.default_rng(self.seed + self.epoch)


class DefaultSampler(Sampler):
    """All items once per epoch, in a new random order for each or unshuffled.

    With `round_up` every process reads equally many; the first items are repeated to fill up.
    """

    def __init__(
        self,
        dataset: Any,
        shuffle: bool = True,
        seed: int | None = None,
        round_up: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__(dataset, seed, round_up, rank, world_size)
        self.shuffle = shuffle

    def _whole_order(self) -> np.ndarray:
        count = len(self.dataset)
        return self._random().permutation(count) if self.shuffle else np.arange(count)
