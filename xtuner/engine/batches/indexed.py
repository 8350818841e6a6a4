"""Batches in a known order that can start at any iteration.

    start_at(10), 4 batches an epoch:   epoch 2 | skip 2 index lists | batch 10, batch 11 | epoch 3 | ...

Skipping reads only index lists, no data. The order is a function of the sampler's seed and the epoch; random
numbers in workers are a function of the run's seed, the process, the epoch and the batch.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, Dataset

from xtuner.dataset.items.worker_seeds import generator_for, seed_worker


class Batches:
    """An endless run of batches over epochs; `len` is the number in one epoch."""

    def __init__(
        self,
        dataset: Any,
        batch_sampler: BatchSampler,
        collate_fn: Callable[[list[dict[str, Any]]], dict[str, Any]],
        seed: int,
        rank: int = 0,
        **loader_kwargs: Any,
    ):
        self.dataset = dataset
        self.batch_sampler = batch_sampler
        self._collate_fn = collate_fn
        self._seed = seed
        self._rank = rank
        self._loader_kwargs = loader_kwargs

    def __len__(self) -> int:
        return len(self.batch_sampler)

    @property
    def sampler(self) -> Any:
        return self.batch_sampler.sampler

    def position(self) -> None:
        """None: the iteration is the position in these data."""

    def go_on_from(self, position: None) -> None:
        """Do nothing: `start_at` gets the iteration."""

    def start_at(self, iteration: int) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Pairs of the data set indices of a batch and the batch, from `iteration` (counted from 0) on."""
        taken: deque[list[int]] = deque()
        epoch, skip = divmod(iteration, len(self))
        while True:
            if hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(epoch)
            rest = itertools.islice(enumerate(self.batch_sampler), skip, None)
            for batch in self._load(_Remembered(rest, taken), epoch):
                yield taken.popleft(), batch
            epoch, skip = epoch + 1, 0

    def _load(self, batches: _Remembered, epoch: int) -> DataLoader:
        # A loader draws a seed for its workers; with a separate generator that does not change the run's.
        return DataLoader(
            _Seeded(self.dataset),
            batch_sampler=batches,  # type: ignore[arg-type]
            collate_fn=self._collate_fn,
            generator=generator_for(self._seed, self._rank, epoch),
            **self._loader_kwargs,
        )


class _Remembered:
    """Numbered index lists; each is also added to `taken` when it is yielded."""

    def __init__(self, index_lists: Iterator[tuple[int, list[int]]], taken: deque[list[int]]):
        self._index_lists = index_lists
        self._taken = taken

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        for number, indices in self._index_lists:
            self._taken.append(indices)
            yield number, indices


class _Seeded(Dataset):
    """The items of a numbered index list, read with the seed of that batch if a worker reads them."""

    def __init__(self, dataset: Any):
        self._dataset = dataset

    def __getitems__(self, batch: tuple[int, list[int]]) -> list[Any]:
        number, indices = batch
        seed_worker(number)
        read = getattr(self._dataset, "__getitems__", None)
        return read(indices) if read else [self._dataset[i] for i in indices]
