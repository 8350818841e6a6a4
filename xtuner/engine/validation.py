"""Validation: the means of the loss and of all metrics over data that is not trained on.

loss, metrics    sum over all items (supervised tokens, pairs, ...) / their number
perplexity       e to the power of the loss, for models that report it
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from xtuner.engine.backend import to_device
from xtuner.engine.batches.validation import ValBatches
from xtuner.engine.randomness import get_rng_state, set_rng_state
from xtuner.errors import DataError
from xtuner.language import translate
from xtuner.log import logger


class ValLoop:
    """Measures a run's model on `dataloader`, without any effect on training."""

    def __init__(self, runner: Any, dataloader: ValBatches):
        self.runner = runner
        self.dataloader = dataloader

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names that `run` reports; the first one is the default of `save_best`."""
        model = self.runner.model
        return tuple(model.describe(dict.fromkeys(("loss", *model.metrics), 0.0)))

    def run(self) -> dict[str, float]:
        """Loss and metrics by name; {} if a signal came in between."""
        run = self.runner
        run.call_hooks("before_val_epoch")
        with _resting(run.model):
            totals = self._totals()
        if totals is None:
            logger.warning(translate("Validation is broken off: the run is asked to stop"))
            return {}
        sums, count = totals
        if not count:
            raise DataError(translate("the validation data has no supervised token"))
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
            outputs = run.backend.measure(run.optim_wrapper, batch, mode="loss", num_items=max(own, 1))
            if counts and own:
                totals["loss"] += outputs["loss"].item() * own
                for name in run.model.metrics:
                    totals[name] += outputs["sums"][name].item()
                count += own
        *sums, counted = run.world.sum(torch.tensor([*totals.values(), count], dtype=torch.float64)).tolist()
        # Each sequence-parallel rank has a part of the loss, but has counted all items.
        return dict(zip(totals, sums, strict=True)), round(counted) // run.world.sequence_size


@contextlib.contextmanager
def _resting(model: torch.nn.Module) -> Iterator[None]:
    """A context with the model in eval mode; restores its mode and the random state."""
    training, rng = model.training, get_rng_state()
    model.eval()
    try:
        yield
    finally:
        model.train(training)
        set_rng_state(rng)
