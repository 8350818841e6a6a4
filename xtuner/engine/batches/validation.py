"""The batches of validation, divided among processes.

items      0 1 | 2 3 | 4           each once and in order, for any number of processes
process 0  0 1         4           batch 0 and 2
process 1        2 3   (0 1)       batch 1, and one that is not counted: all call the model equally often
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader


class ValBatches:
    """The batches of one process: those with numbers `rank`, `rank + size`, ..."""

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        collate_fn: Callable[[list[Any]], dict[str, Any]],
        rank: int = 0,
        size: int = 1,
        **loader_kwargs: Any,
    ):
        self.dataset = dataset
        items = range(len(dataset))
        batches = [list(items[i : i + batch_size]) for i in range(0, len(items), batch_size)]
        self._own = batches[rank::size]
        self._num_uncounted = math.ceil(len(batches) / size) - len(self._own)
        indices = self._own + batches[:1] * self._num_uncounted
        # With a separate generator the loader does not change the run's random numbers.
        self._loader = DataLoader(
            dataset,
            batch_sampler=indices,
            collate_fn=collate_fn,
            generator=torch.Generator().manual_seed(0),
            **loader_kwargs,
        )

    def __len__(self) -> int:
        return len(self._own) + self._num_uncounted

    def __iter__(self) -> Iterator[tuple[dict[str, Any], bool]]:
        """Each batch, and whether it counts."""
        for number, batch in enumerate(self._loader):
            yield batch, number < len(self._own)
