"""Hooks that measure the run and set its learning rate."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from xtuner.engine.hooks.hook import Hook
from xtuner.log import say_once

if TYPE_CHECKING:
    from xtuner.engine.run import Run


class RuntimeInfoHook(Hook):
    """Records the learning rate of every iteration and the gradient norm of every update."""

    priority = "VERY_HIGH"

    def after_train_iter(
        self, runner: Run, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        runner.history.record("lr", runner.optim_wrapper.param_groups[0]["lr"])
        if "grad_norm" in (outputs or {}):
            runner.history.record("grad_norm", outputs["grad_norm"])


class IterTimerHook(Hook):
    """Records the time of each iteration and its wait for data, in seconds."""

    def before_train(self, runner: Run) -> None:
        self._last = time.perf_counter()
        self._fetches: list[float] = []

    def before_fetch(self, runner: Run) -> None:
        self._fetch = time.perf_counter()

    def after_fetch(self, runner: Run) -> None:
        self._fetches.append(time.perf_counter() - self._fetch)

    def after_train_iter(
        self, runner: Run, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        now = time.perf_counter()
        runner.history.record("time", now - self._last)
        runner.history.record("data_time", self._fetches.pop(0))
        self._last = now


class ParamSchedulerHook(Hook):
    """Sets the learning rate before each iteration."""

    priority = "LOW"

    def before_train_iter(self, runner: Run, batch_idx: int, data_batch: Any = None) -> None:
        for group, rate in zip(runner.optim_wrapper.param_groups, runner.learning_rates(), strict=True):
            group["lr"] = rate


class DistSamplerSeedHook(Hook):
    """Does nothing, for configs that name it: the order of the data depends on the epoch anyway."""


class VarlenAttnArgsToMessageHubHook(Hook):
    """Does nothing, for configs that name it: sample boundaries are in the batch."""

    def before_run(self, runner: Run) -> None:
        say_once(
            "VarlenAttnArgsToMessageHubHook is not needed: packed samples never attend to each "
            "other; remove it",
            logging.INFO,
        )
