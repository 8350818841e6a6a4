"""Validation: the mean loss over data that is not trained on.

val_dataloader = dict(held_out=0.05)             5 % of the training rows, which training then leaves out
val_dataloader = dict(dataset=dict(type=...))    other data; what is not said is as in train_dataloader

items      0 1 | 2 3 | 4           each once and in their order, however many processes there are
process 0  0 1         4           batch 0 and 2
process 1        2 3   (0 1)       batch 1, and one that is not counted: all call the model equally often

loss         sum of the losses of all trained tokens / their number
perplexity   e to the power of it
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader

from xtuner.config import Config
from xtuner.config.build import callee_of
from xtuner.dataset.huggingface import process_hf_dataset
from xtuner.engine.batch import to_device
from xtuner.engine.randomness import get_rng_state, set_rng_state
from xtuner.errors import ConfigError, DataError
from xtuner.language import told
from xtuner.log import logger


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
        # With a generator of its own the loader leaves the run's random numbers alone.
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


class ValLoop:
    """Measures a run's model on `dataloader`; training goes on as if it had not been."""

    def __init__(self, runner: Any, dataloader: ValBatches):
        self.runner = runner
        self.dataloader = dataloader

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What `run` reports, the first one by default for `save_best`."""
        model = self.runner.model
        return tuple(model.describe(dict.fromkeys(("loss", *model.metrics), 0.0)))

    def run(self) -> dict[str, float]:
        """Loss and metrics by name; {} if a signal came in between."""
        run = self.runner
        run.call_hooks("before_val_epoch")
        with _resting(run.model):
            totals = self._totals()
        if totals is None:
            logger.warning(told("Validation is broken off: the run is asked to stop"))
            return {}
        sums, count = totals
        if not count:
            raise DataError(told("the validation data has no supervised token"))
        metrics = run.model.describe({name: value / count for name, value in sums.items()})
        run.call_hooks("after_val_epoch", metrics=metrics)
        return metrics

    @torch.no_grad()
    def _totals(self) -> tuple[dict[str, float], int] | None:
        """Sums of losses and metrics, and the number of items, of all processes together."""
        run, count = self.runner, 0
        totals = dict.fromkeys(("loss", *run.model.metrics), 0.0)
        for batch, counts in self.dataloader:
            if run.train_loop is not None and run.train_loop.stop_asked():
                return None
            own = run.model.num_items(batch["data"])
            batch = to_device(batch, run.device)
            outputs = run.backend.measure(run.optim_wrapper, batch, max(own, 1))
            if counts and own:
                totals["loss"] += outputs["loss"].item() * own
                for name in run.model.metrics:
                    totals[name] += outputs["sums"][name].item()
                count += own
        *sums, counted = run.world.sum(torch.tensor([*totals.values(), count], dtype=torch.float64)).tolist()
        # Sequence-parallel ranks have each a part of the loss, and have each counted all items.
        return dict(zip(totals, sums, strict=True)), round(counted) // run.world.sequence_size


@contextlib.contextmanager
def _resting(model: torch.nn.Module) -> Iterator[None]:
    """Within it the model is in eval mode; afterwards it and the random state are as before."""
    training, rng = model.training, get_rng_state()
    model.eval()
    try:
        yield
    finally:
        model.train(training)
        set_rng_state(rng)


def data_of_training(cfg: Config) -> Any:
    """The config of the data to train on, without what `val_dataloader.held_out` keeps for validation."""
    dataset = cfg.train_dataloader["dataset"]
    share = (cfg.get("val_dataloader") or {}).get("held_out")
    return with_part(dataset, share, False) if share else dataset


def data_of_validation(cfg: Config, name: str) -> Any:
    """The config of the data of `name` (val_dataloader or test_dataloader)."""
    given = cfg[name]
    if given.get("held_out"):
        return with_part(cfg.train_dataloader["dataset"], given["held_out"], True)
    return given["dataset"]


def with_part(dataset: Any, share: float, take: bool) -> Any:
    """`dataset` with one side of the split in every `process_hf_dataset` in it."""
    changed = _with_part(dataset, {"held_out": share, "take_held_out": take})
    if changed is dataset:
        raise ConfigError(
            told(
                "val_dataloader.held_out: train_dataloader.dataset has no process_hf_dataset to hold "
                "rows out; give val_dataloader a dataset of its own instead"
            )
        )
    return changed


def _with_part(value: Any, part: Mapping[str, Any]) -> Any:
    """A copy of what changes; the rest stays the same objects, which are built once."""
    if isinstance(value, list):
        inner = [_with_part(item, part) for item in value]
        return inner if any(a is not b for a, b in zip(inner, value, strict=True)) else value
    if not isinstance(value, dict):
        return value
    if value.get("type") is not None and callee_of(value, "train_dataloader.dataset") is process_hf_dataset:
        return type(value)({**value, **part})
    items = {key: _with_part(item, part) for key, item in value.items()}
    return type(value)(items) if any(items[key] is not value[key] for key in items) else value
