"""The log line and the scalars of training.

Iter(train) [ 10/720]  lr: 9.0001e-05  eta: 0:31:46  time: 2.6851  data_time: 0.0077  loss: 2.6900 ...
Epoch(train)  [1][ 10/240]  ...
Iter(val) [300/720]  loss: 2.5012  perplexity: 12.1971
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from xtuner.engine.hooks.hook import Hook
from xtuner.engine.memory import peak_bytes
from xtuner.log import logger

if TYPE_CHECKING:
    from xtuner.engine.run import Run

# Logged as a mean over the last iterations; others as the last value.
_SMOOTHED = ("loss", "grad_norm")
_SMOOTHED_HERE = ("time", "data_time", "mfu", "hfu", "fill")  # of this start of the run alone
_OWN_PLACE = ("lr", "time", "data_time", "loss", "grad_norm")
EXPERIMENT_NAME_INTERVAL = 1000


class LoggerHook(Hook):
    """Logs a line and writes scalars every `interval` iterations, and at the end."""

    priority = "BELOW_NORMAL"

    def __init__(self, interval: int = 10, ignore_last: bool = True, log_metric_by_epoch: bool = True):
        self.interval = interval
        self.ignore_last = ignore_last
        # Metrics of validation always have their iteration as the step.
        self.log_metric_by_epoch = log_metric_by_epoch

    def before_run(self, runner: Run) -> None:
        processor = runner.cfg.get("log_processor") or {}
        self._by_epoch = processor.get("by_epoch", False)
        updates = runner.cfg.get("optim_wrapper") or {}
        runner.history.set_window(processor.get("window_size", 10), updates.get("accumulative_counts", 1))

    def before_train(self, runner: Run) -> None:
        self._started = time.perf_counter()
        self._first = runner.iter

    def after_train_iter(
        self, runner: Run, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        done = batch_idx + 1 if self._by_epoch else runner.iter + 1
        last_of_epoch = batch_idx + 1 == runner.train_loop.epoch_length
        due = done % self.interval == 0 or runner.iter + 1 == runner.max_iters
        if due or (self._by_epoch and last_of_epoch and not self.ignore_last):
            self._write(runner, batch_idx)
        if (runner.iter + 1) % EXPERIMENT_NAME_INTERVAL == 0:
            logger.info("Exp name: %s", runner.experiment_name)

    def after_val_epoch(self, runner: Run, metrics: dict[str, float]) -> None:
        if not runner.world.is_first:
            return
        done, end = runner.iter + 1, runner.max_iters
        words = "  ".join(f"{name}: {value:.4f}" for name, value in metrics.items())
        logger.info("Iter(val) [%s/%d]  %s", str(done).rjust(len(str(end))), end, words)
        runner.visualizer.add_scalars({**{f"val/{n}": v for n, v in metrics.items()}, "iter": done}, done)

    def before_save_checkpoint(self, runner: Run, checkpoint: dict[str, Any]) -> None:
        runner.history.add_parts(runner.world.sum)
        values = runner.history.kept().items()
        checkpoint["logged"] = {n: v for n, v in values if _is_mean(n, runner) and n not in _SMOOTHED_HERE}

    def after_load_checkpoint(self, runner: Run, checkpoint: dict[str, Any]) -> None:
        # Those of an update that begins again come again.
        again = checkpoint["meta"]["iter"] - checkpoint["resume"]["iter"]
        for name, values in checkpoint.get("logged", {}).items():
            num_kept = len(values) if name == "grad_norm" else max(len(values) - again, 0)
            for value in values[:num_kept]:
                runner.history.record(name, value)

    def _write(self, runner: Run, batch_idx: int) -> None:
        history = runner.history
        history.add_parts(runner.world.sum)
        if not runner.world.is_first:
            return
        values = {n: history.mean(n) if _is_mean(n, runner) else history.last(n) for n in history}
        values = {"lr": values["lr"], **values}
        memory = peak_bytes(runner.device) // 2**20
        passed = time.perf_counter() - self._started
        left = passed / (runner.iter + 1 - self._first) * (runner.max_iters - runner.iter - 1)
        logger.info("%s  %s", self._tag(runner, batch_idx), describe_values(values, left, memory))
        step = runner.iter + 1
        place = {"epoch": runner.epoch + 1, "iter": step} if self._by_epoch else {"iter": step}
        runner.visualizer.add_scalars({**values, **place, "memory": memory}, step)

    def _tag(self, runner: Run, batch_idx: int) -> str:
        if self._by_epoch:
            length = runner.train_loop.epoch_length
            return f"Epoch(train)  [{runner.epoch + 1}][{batch_idx + 1:>{len(str(length))}}/{length}]"
        return f"Iter(train) [{runner.iter + 1:>{len(str(runner.max_iters))}}/{runner.max_iters}]"


def _is_mean(name: str, runner: Run) -> bool:
    sampled = getattr(runner.train_dataloader, "metrics", ())
    return "loss" in name or name in (*_SMOOTHED, *_SMOOTHED_HERE, *runner.model.metrics, *sampled)


def describe_values(values: Mapping[str, float], left: float, memory: int) -> str:
    """The words of a log line; `left`: seconds to the end, `memory`: the peak in MiB."""
    words = [
        f"lr: {values['lr']:.4e}",
        f"eta: {datetime.timedelta(seconds=int(left))}",
        *(f"{name}: {values[name]:.4f}" for name in ("time", "data_time") if name in values),
        f"memory: {memory}",
        *(f"{name}: {values[name]:.4f}" for name in ("loss", "grad_norm") if name in values),
        *(f"{name}: {value:.4f}" for name, value in values.items() if name not in _OWN_PLACE),
    ]
    return "  ".join(words)
