"""Ends a run whose validation has stopped to improve."""

from __future__ import annotations

import math
from typing import Any

from xtuner.engine.hooks.hook import Hook
from xtuner.engine.hooks.validated import RULES, check_metric, check_rule, rule_for, value_of
from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.log import logger


class EarlyStoppingHook(Hook):
    """Ends the run, after the current update, when `monitor` has not improved for `patience` validations.

    `monitor` names what validation measures ("auto": the first of it), and `rule` ("less" or "greater") what
    is better; by default the model knows. A value improves if it is better than the best by more than
    `min_delta`. The run also ends when a value is not finite, with `check_finite`, and when one is better
    than `stopping_threshold`. A metric that validation does not measure is an error, `strict` or not.

    The counter is in checkpoints. The last checkpoint is saved as at any other end.
    """

    priority = "LOWEST"
    in_replay = False

    def __init__(
        self,
        monitor: str,
        rule: str | None = None,
        min_delta: float = 0.1,
        strict: bool = False,
        check_finite: bool = True,
        patience: int = 5,
        stopping_threshold: float | None = None,
    ):
        check_rule(rule, "EarlyStoppingHook.rule")
        if patience < 1:
            raise ConfigError(
                translate("EarlyStoppingHook.patience is {patience}: write 1 or more", patience=patience)
            )
        self.monitor = monitor
        self.rule = rule
        self.min_delta = abs(min_delta)
        self.check_finite = check_finite
        self.patience = patience
        self.stopping_threshold = stopping_threshold
        self._best: float | None = None
        self._last: tuple[str, float] | None = None
        self._num_waited = 0

    def before_train(self, runner: Any) -> None:
        check_metric(runner, self.monitor, "EarlyStoppingHook.monitor")
        if self._last is not None:
            self._stop_if_due(runner, *self._last)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float]) -> None:
        name, value = value_of(metrics, self.monitor)
        better = RULES[rule_for(runner, name, self.rule)]
        # A difference in the direction of the rule.
        delta = self.min_delta if better(1, 0) else -self.min_delta
        self._last = name, value
        if not math.isnan(value) and (self._best is None or better(value, self._best + delta)):
            self._best, self._num_waited = value, 0
        else:
            self._num_waited += 1
        self._stop_if_due(runner, name, value)

    def _stop_if_due(self, runner: Any, name: str, value: float) -> None:
        better = RULES[rule_for(runner, name, self.rule)]
        if self.check_finite and not math.isfinite(value):
            what = translate("Early stopping: %s is %s")
            logger.warning(what, name, value)
        elif self.stopping_threshold is not None and better(value, self.stopping_threshold):
            what = translate("Early stopping: %s is %.4f, better than stopping_threshold = %.4f")
            logger.info(what, name, value, self.stopping_threshold)
        elif self._num_waited >= self.patience:
            what = translate(
                "Early stopping: none of the last %d validations was better than %s %s by more than %s"
            )
            best = None if self._best is None else f"{self._best:.4f}"
            logger.info(what, self._num_waited, name, best, self.min_delta)
        else:
            return
        runner.train_loop.stop_training = True

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["early_stopping"] = {
            "best": self._best,
            "last": self._last,
            "num_waited": self._num_waited,
        }

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        if saved := checkpoint.get("early_stopping"):
            self._best, self._num_waited = saved["best"], saved["num_waited"]
            self._last = None if saved["last"] is None else tuple(saved["last"])
