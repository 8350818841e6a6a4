"""Batches of streamed data, and the positions to resume from.

    2 workers     worker 0: batch 0, batch 2, ...      worker 1: batch 1, batch 3, ...
    position      {"turn": 1, "readers": [position after batch 2, position after batch 1]}
                  after three batches: worker 1 is next, each continues after its last used batch

Every worker of every process reads different rows. A position is after the last batch used in training;
batches that a worker has prepared beyond that are prepared again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from xtuner.config.streaming import epoch_faults
from xtuner.dataset.items.streamed import Stream
from xtuner.errors import CheckpointError, ConfigError
from xtuner.language import translate
from xtuner.log import logger, say_once

FOREVER = 10**9


class StreamBatches:
    """An endless run of batches of a stream; process `rank` of `world_size` reads its part of the rows."""

    def __init__(
        self,
        dataset: Stream,
        batch_size: int,
        collate_fn: Callable[[list[dict[str, Any]]], dict[str, Any]],
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        **loader_kwargs: Any,
    ):
        self.dataset = dataset
        self._batch_size = batch_size
        self._collate_fn = collate_fn
        self._seed = seed
        self._loader_kwargs = loader_kwargs
        self._num_workers = max(1, loader_kwargs.get("num_workers") or 0)
        self._first_reader = rank * self._num_workers
        self._num_readers = world_size * self._num_workers
        self._positions = [dataset.position().numbers()] * self._num_workers
        self._turn = 0

    def __len__(self) -> int:
        # The length of an epoch is unknown; no run is this long.
        return FOREVER

    def position(self) -> dict[str, Any]:
        """The position after the batches yielded so far, as plain numbers, for `go_on_from`."""
        return {"turn": self._turn, "readers": list(self._positions)}

    def go_on_from(self, position: Mapping[str, Any]) -> None:
        """Let `start_at` begin at `position`."""
        saved = len(position["readers"])
        if saved != self._num_workers:
            raise CheckpointError(
                translate(
                    "the checkpoint was saved with {saved} workers per process reading the stream, "
                    "and this run has {here}: set train_dataloader.num_workers as it was",
                    saved=saved,
                    here=self._num_workers,
                )
            )
        self._turn, self._positions = position["turn"], [list(numbers) for numbers in position["readers"]]

    def start_at(self, iteration: int) -> Iterator[tuple[list[Any], dict[str, Any]]]:
        """Pairs of the rows of a batch and the batch, from the position on; the iteration is ignored."""
        for reader, rows, batch, numbers, messages in self._load():
            self._positions[reader] = numbers
            self._turn = (reader + 1) % self._num_workers
            self._tell(reader, messages)
            yield rows, batch

    def _load(self) -> DataLoader:
        readers = _Readers(
            self.dataset,
            self._batch_size,
            self._collate_fn,
            (self._first_reader, self._num_readers),
            list(self._positions),
            self._turn,
        )
        generator = torch.Generator().manual_seed(self._seed)
        return DataLoader(
            readers, batch_size=None, collate_fn=_same, generator=generator, **self._loader_kwargs
        )

    def _tell(self, reader: int, messages: list[tuple[str, bool]]) -> None:
        who = f"reader {self._first_reader + reader + 1} of {self._num_readers}: "
        for line, is_warning in messages:
            level = logging.WARNING if is_warning else logging.INFO
            logger.log(level, "%s%s", who if self._num_readers > 1 else "", line)


class _Readers(IterableDataset):
    """The stream for the workers of a loader, each of which starts at its own position."""

    def __init__(
        self,
        dataset: Stream,
        batch_size: int,
        collate_fn: Callable[[list[dict[str, Any]]], dict[str, Any]],
        share: tuple[int, int],
        positions: list[list[int]],
        turn: int,
    ):
        self._dataset = dataset
        self._batch_size = batch_size
        self._collate_fn = collate_fn
        self._first_reader, self._num_readers = share
        self._positions = positions
        self._turn = turn

    def __iter__(self) -> Iterator[tuple[int, list[Any], dict[str, Any], list[int], list[Any]]]:
        info = get_worker_info()
        # The loader begins with its first worker, so that one gets the part of the worker whose turn it is.
        reader = (self._turn + (info.id if info else 0)) % len(self._positions)
        start = self._dataset.position(self._positions[reader])
        items, rows, messages = [], [], []
        for streamed in self._dataset.read(self._first_reader + reader, self._num_readers, start):
            items.append(streamed.item)
            rows.append([list(cursor) for cursor in streamed.rows])
            messages += streamed.messages
            if len(items) == self._batch_size:
                yield reader, rows, self._collate_fn(items), streamed.position.numbers(), messages
                items, rows, messages = [], [], []


def _same(value: Any) -> Any:
    return value


def check_stream_config(cfg: Mapping[str, Any]) -> None:
    """Raise ConfigError for settings in epochs, which have no known length."""
    if faults := epoch_faults(cfg):
        raise ConfigError(*[fault.message for fault in faults])
    say_once(
        "streaming: rows are shuffled in the buffer of process_hf_dataset; "
        "train_dataloader.sampler, batch_sampler and drop_last are not used",
        logging.INFO,
    )
