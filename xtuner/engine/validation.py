"""Validation: the means of the loss and of all metrics over data that is not trained on, or of answers.

loss, metrics    sum over all items (supervised tokens, pairs, ...) / their number
perplexity       e to the power of the loss, for models that report it
evaluators       with val_evaluator: their numbers instead, of the model's outputs for each batch
beside           what hooks measure in addition: metric_names, better_if_larger, measure(run)
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
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

    def __init__(self, runner: Any, dataloader: ValBatches, evaluators: Sequence[Any] = ()):
        self.runner = runner
        self.dataloader = dataloader
        self.evaluators = evaluators
        self.beside: list[Any] = []

    @property
    def metric_names(self) -> tuple[str, ...] | None:
        """The names that `run` reports, the first being the default of `save_best`; None if unknown."""
        own = self._own_names()
        return None if own is None else (*own, *(name for more in self.beside for name in more.metric_names))

    def is_better_if_larger(self, name: str) -> bool:
        """Whether a larger value of that metric is better: of val_evaluator all are."""
        for more in self.beside:
            if name in more.metric_names:
                return name in more.better_if_larger
        return name in self.runner.model.better_if_larger or bool(self.evaluators)

    def _own_names(self) -> tuple[str, ...] | None:
        model = self.runner.model
        if self.evaluators:
            names: list[str] = []
            for evaluator in self.evaluators:
                if (own := getattr(evaluator, "metric_names", None)) is None:
                    return None
                names += (_named(evaluator, name) for name in own)
            return tuple(names)
        return tuple(model.describe(dict.fromkeys(("loss", *model.metrics), 0.0)))

    def run(self) -> dict[str, float]:
        """Loss and metrics by name; {} if a signal came in between."""
        run = self.runner
        run.call_hooks("before_val_epoch")
        metrics = self.measure()
        for more in self.beside:
            found = None if metrics is None else more.measure(run)
            metrics = None if found is None or metrics is None else {**metrics, **found}
        if metrics is None:
            logger.warning(translate("Validation is broken off: the run is asked to stop"))
            return {}
        run.call_hooks("after_val_epoch", metrics=metrics)
        return metrics

    def measure(self) -> dict[str, float] | None:
        """Loss and metrics of the validation data, without a call of hooks; None if a signal came."""
        if self.runner.optim_wrapper is not None:
            self.runner.optim_wrapper.show_average()
        with resting(self.runner.model):
            return self._answers() if self.evaluators else self._means()

    def _means(self) -> dict[str, float] | None:
        """Loss and metrics of the model; None if a signal came in between."""
        totals = self._totals()
        if totals is None:
            return None
        sums, count = totals
        if not count:
            raise DataError(translate("the validation data has no supervised token"))
        return self.runner.model.describe({name: value / count for name, value in sums.items()})

    @torch.no_grad()
    def _answers(self) -> dict[str, float] | None:
        """The numbers of all evaluators; None if a signal came in between."""
        run = self.runner
        found: list[list[list[Any]]] = [[] for _ in self.evaluators]  # of each batch of this process
        for batch, counts in self.dataloader:
            if run.train_loop is not None and run.train_loop.stop_asked():
                return None
            outputs = run.backend.measure(run.optim_wrapper, to_device(batch, run.device), mode="predict")
            for evaluator, own in zip(self.evaluators, found, strict=True):
                evaluator.results = []
                if counts:
                    evaluator.process(batch, outputs)
                own.append(evaluator.results)
        metrics: dict[str, float] = {}
        for evaluator, own in zip(self.evaluators, found, strict=True):
            # Batches are dealt out in turn.
            turns = itertools.zip_longest(*run.world.all_gather(own), fillvalue=[])
            results = [one for turn in turns for batch in turn for one in batch]
            # By one process, so that all of them decide alike what follows.
            numbers = run.world.broadcast(evaluator.compute_metrics(results) if run.world.is_first else {})
            metrics |= {_named(evaluator, name): float(value) for name, value in numbers.items()}
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


def _named(evaluator: Any, name: str) -> str:
    prefix = getattr(evaluator, "prefix", None)
    return f"{prefix}/{name}" if prefix else name


@contextlib.contextmanager
def resting(model: torch.nn.Module) -> Iterator[None]:
    """A context with the model in eval mode; restores its mode and the random state."""
    training, rng = model.training, get_rng_state()
    model.eval()
    try:
        yield
    finally:
        model.train(training)
        set_rng_state(rng)
