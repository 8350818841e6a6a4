"""The batch of a run that needs the most memory, tried before the run begins.

items of an epoch      [0 3] [1 2] [4 5]        batches of all processes' part that this one reads
tokens of each batch     310   512   498        the second is tried: two updates, of which the second has the
                                                optimiser's state beside the activations
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xtuner import devices
from xtuner.config import Config
from xtuner.engine.batches.indexed import Batches
from xtuner.engine.batches.rollouts import RolloutBatches
from xtuner.engine.build import build_run
from xtuner.engine.memory import explaining_out_of_memory, peak_bytes
from xtuner.engine.run import Run, RunOptions
from xtuner.engine.runner import named_places
from xtuner.engine.steps import train_step
from xtuner.errors import ConfigError
from xtuner.language import translate

NUM_UPDATES = 2


@dataclass(frozen=True)
class Tried:
    """The longest batch, its number among those of an epoch, and what its updates took."""

    number: int
    num_batches: int
    num_tokens: int
    rows: str
    seconds: float
    peak: int  # bytes


def try_longest(cfg: Config, options: RunOptions) -> Tried:
    """What updates with the longest batch need; TrainingError, with its rows, if memory is missing.

    The run is built as for training, in a work dir that is removed afterwards.
    """
    with tempfile.TemporaryDirectory() as work_dir, explaining_out_of_memory(options.forecast):
        run = build_run(cfg, replace(options, work_dir=work_dir))
        with run.held:
            return _try(run)


def longest_batch(batches: Batches) -> tuple[int, list[int]]:
    """The number and the items of the batch of the first epoch with the most tokens; the first of equals."""
    lengths = getattr(batches.dataset, "length", None)
    if lengths is None:
        what = "{kind} does not know the lengths of its items, so none is the longest: leave out --longest"
        raise ConfigError(translate(what, kind=type(batches.dataset).__name__))
    if hasattr(batches.sampler, "set_epoch"):
        batches.sampler.set_epoch(0)
    items = [list(batch) for batch, _ in zip(batches.batch_sampler, range(len(batches)), strict=False)]
    tokens = [int(np.asarray(lengths)[batch].sum()) for batch in items]
    number = int(np.argmax(tokens))
    return number, items[number]


def _try(run: Run) -> Tried:
    source = run.train_dataloader
    if isinstance(source, RolloutBatches):
        what = "answers are sampled while training, so none is known to be the longest: leave out --longest"
        raise ConfigError(translate(what))
    if not isinstance(source, Batches):
        what = (
            "with streaming = True rows are read while training, so none is the longest: leave out --longest"
        )
        raise ConfigError(translate(what))
    number, items = longest_batch(source)
    rows = named_places(source.dataset, [items])
    found, batch = next(source.start_at(number))
    assert list(found) == items, "the order of batches is a function of the epoch"
    run.model.train()
    begin = time.perf_counter()
    with explaining_out_of_memory(run.forecast, lambda: translate("Rows in this batch: {named}", named=rows)):
        for _ in range(NUM_UPDATES):
            _update(run, batch)
    if devices.is_accelerator(run.device):
        devices.synchronize(run.device)
    seconds = time.perf_counter() - begin
    num_tokens = int(np.asarray(source.dataset.length)[items].sum())
    return Tried(number, len(source), num_tokens, rows, seconds, peak_bytes(run.device))


def _update(run: Run, batch: dict[str, Any]) -> None:
    count = run.model.num_items(batch["data"])
    train_step(run, batch, count, max(count, 1))
    run.backend.update(run.optim_wrapper)
