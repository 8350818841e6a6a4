"""The training loop.

    iter      0   1   2   3   4   5   6   7      one batch per process
    window   [0   1   2   3] [4   5   6   7]     accumulative_counts batches, one update of the weights

The loss of a window is the mean over its supervised tokens, for any division into batches and processes.
Weights change only at the end of a window; a checkpoint in the middle of one resumes at its start. An update
is skipped if its loss or gradient is not finite, or its loss is a spike: more than `spike_ratio` times the
median of the previous ones.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch

from xtuner.devices import is_accelerator
from xtuner.engine.batches.source import BatchSource
from xtuner.engine.memory import explaining_out_of_memory
from xtuner.engine.optim import PendingUpdate, Update
from xtuner.engine.randomness import set_rng_state
from xtuner.engine.resume import Position
from xtuner.engine.run import Run
from xtuner.engine.slow_updates import UpdateTimes
from xtuner.engine.steps import Step, Steps
from xtuner.engine.stop import StopSignal, noting_signals
from xtuner.engine.validation import ValLoop
from xtuner.errors import ConfigError, TrainingError
from xtuner.language import translate
from xtuner.log import logger

MAX_ROWS_NAMED = 20
MAX_SLOW_NAMED = 5
# The median needs some updates.
MIN_LOSSES = 10
TestLoop = ValLoop


class TrainLoop:
    """Trains for `max_epochs` times the length of the data, or for `max_iters`."""

    def __init__(
        self,
        runner: Run,
        dataloader: BatchSource,
        max_iters: int | None = None,
        max_epochs: float | None = None,
        val_interval: int | None = None,
        val_begin: int = 1,
        spike_ratio: float | None = None,
        by_epoch: bool = False,
    ):
        """`val_interval`, `val_begin`: in epochs if `by_epoch`, else in iterations; by default each epoch."""
        self.runner = runner
        self.dataloader = dataloader
        self.epoch_length = len(dataloader)
        self.max_epochs: float
        self.max_iters: int
        if max_epochs is not None and max_iters is None:
            self.max_epochs, self.max_iters = max_epochs, math.ceil(max_epochs * self.epoch_length)
        elif max_iters is not None and max_epochs is None:
            self.max_epochs, self.max_iters = math.ceil(max_iters / self.epoch_length), max_iters
        else:
            raise ConfigError(
                translate(
                    "train_cfg needs either max_epochs or max_iters: max_epochs={max_epochs!r}, "
                    "max_iters={max_iters!r}",
                    max_epochs=max_epochs,
                    max_iters=max_iters,
                )
            )
        if spike_ratio is not None and not runner.backend.can_drop_gradients:
            raise ConfigError(
                translate(
                    "train_cfg.spike_ratio: DeepSpeed cannot skip a finite update; remove spike_ratio, "
                    "or train without --deepspeed"
                )
            )
        unit = self.epoch_length if by_epoch else 1
        self.val_interval = self.epoch_length if val_interval is None else val_interval * unit
        self.val_begin = val_begin * unit
        self.spike_ratio = spike_ratio
        self.skipped_in_a_row = 0
        # The number of iterations when the current update is done.
        self._end_of_update = 0
        # The newest update whose outcome is not known yet: its iteration, itself, its rows.
        self._unchecked: tuple[int, Update | PendingUpdate, list[Any]] | None = None
        self._times = UpdateTimes()
        self._fetching = self._computing = 0.0  # seconds of the current update
        self._recent: deque[list[Any]] = deque(maxlen=2)  # the rows of the last updates
        self._num_slow = 0
        self._stop = StopSignal()
        # What notes signals while the loop runs.
        self.signals: Callable[[], AbstractContextManager[StopSignal]] = noting_signals

    def steps(self) -> Steps:
        """The steps from the run's iteration to the end; each receives its outputs."""
        run = self.runner
        self._end_of_update = run.iter
        run.call_hooks("before_train")
        windows = self._windows(run.iter)
        with self.signals() as self._stop:
            while run.iter < self.max_iters:
                yield from self._train_window(next(windows))
            self.check_update()
        if self._num_slow > MAX_SLOW_NAMED:
            what = translate("%d updates took far longer than usual; the first %d are named above")
            logger.warning(what, self._num_slow, MAX_SLOW_NAMED)
        run.call_hooks("after_train")

    def validates_at(self, iteration: int) -> bool:
        """Whether validation is due after `iteration` (counted from 0); it always is after the last."""
        done = iteration + 1
        return (done >= self.val_begin and done % self.val_interval == 0) or done == self.max_iters

    @property
    def rows(self) -> list[list[Any]]:
        """The items of each batch of the current update on this process, as `source_places` knows them."""
        return list(self._rows)

    @property
    def stop_training(self) -> bool:
        """Whether the run ends with the current update; a hook sets it, on all processes."""
        return self.max_iters == self._end_of_update

    @stop_training.setter
    def stop_training(self, value: bool) -> None:
        if value:
            self.max_iters = self._end_of_update

    def stop_noted(self) -> bool:
        """Whether this process has received a signal, and others perhaps have not."""
        return bool(self._stop.number)

    def stop_asked(self) -> int:
        """The number of a signal that any process has received, or 0; a collective."""
        return self.runner.world.all_reduce_max(self._stop.number)

    def _windows(self, start: int) -> Iterator[list[dict[str, Any]]]:
        batches = self.dataloader.start_at(start)
        while start < self.max_iters:
            size = min(self.runner.optim_wrapper.accumulative_counts, self.max_iters - start)
            self._fetching = self._computing = 0.0
            self._rows: deque[list[Any]] = deque(maxlen=size)
            window = []
            for _ in range(size):
                window.append(self._next(batches))
            yield window
            start += size

    def _next(self, batches: Iterator[tuple[list[Any], dict[str, Any]]]) -> dict[str, Any]:
        self.runner.call_hooks("before_fetch")
        begin = time.perf_counter()
        indices, batch = next(batches)
        self._fetching += time.perf_counter() - begin
        self._rows.append(indices)
        self.runner.call_hooks("after_fetch")
        return batch

    def _train_window(self, window: list[dict[str, Any]]) -> Steps:
        run = self.runner
        run.position = Position(run.iter, run.position.data)
        self._end_of_update = run.iter + len(window)
        own = [run.model.num_items(batch["data"]) for batch in window]
        counts = sum_counts(run, own)
        total, loss = max(sum(counts), 1), torch.zeros((), device=run.device)
        for number, batch in enumerate(window):
            in_epoch = run.iter % self.epoch_length
            if in_epoch == 0:
                run.call_hooks("before_train_epoch")
            run.call_hooks("before_train_iter", batch_idx=in_epoch, data_batch=batch)
            is_last = number == len(window) - 1
            begin = time.perf_counter()
            with explaining_out_of_memory(run.forecast, partial(self._name_batch, number)):
                run.optim_wrapper.go_on()
                outputs = yield Step(batch, counts[number], total, is_last)
            loss = loss + outputs["loss"]
            # This process's part of the batch's mean: the parts of all are summed when a line is written.
            of_batch = total / max(counts[number], 1)
            run.history.record_part("loss", outputs["loss"] * of_batch)
            for name in run.model.metrics:
                run.history.record_part(name, outputs["sums"][name] / max(counts[number], 1))
            report = {"loss": outputs["loss"] * (total / max(own[number], 1))}
            if is_last:
                report |= self._update(loss)
                # A run that stops from here on resumes after this window; before, at its start.
                run.position = Position(run.iter + 1, self.dataloader.position())
            self._computing += time.perf_counter() - begin
            if is_last:
                self._name_if_slow()
            run.call_hooks("after_train_iter", batch_idx=in_epoch, data_batch=batch, outputs=report)
            if in_epoch == self.epoch_length - 1:
                run.call_hooks("after_train_epoch")
            # Several processes exchange signals once per update.
            if is_last or run.world.size == 1:
                self._end_if_asked()
            run.iter += 1

    def _end_if_asked(self) -> None:
        if number := self.stop_asked():
            self.runner.save_now()
            raise SystemExit(128 + number)

    def end_before_update(self, rng: dict[str, Any]) -> None:
        """End the run if a signal has come while answers of the next update were sampled; a collective.

        The checkpoint is that of the iteration before, with `rng`: the random state before the sampling.
        """
        if number := self.stop_asked():
            set_rng_state(rng)
            self.runner.iter -= 1
            self.runner.save_now()
            self.runner.iter += 1  # in which the run has stopped
            raise SystemExit(128 + number)

    def _update(self, loss: torch.Tensor) -> dict[str, Any]:
        """Change the weights, unless the update is skipped; `loss` is this process's part of the update's."""
        if self.spike_ratio is not None and self._is_spike(float(self.runner.world.sum(loss))):
            return {}
        self.runner.call_hooks("before_update")
        update = self.runner.backend.update(self.runner.optim_wrapper)
        self.check_update()
        self._unchecked = self.runner.iter, update, list(self._rows)
        if isinstance(update, Update):
            self.check_update()
        return {"grad_norm": update.grad_norm}

    def check_update(self) -> None:
        """Count the newest update as applied or skipped; a collective. A pending one is waited for.

        It is called one update later, when a GPU has finished it, and before a checkpoint is written.
        """
        if self._unchecked is None:
            return
        (iteration, update, rows), self._unchecked = self._unchecked, None
        if isinstance(update, PendingUpdate):
            update = update.wait()
        if update.applied:
            self.skipped_in_a_row = 0
        elif update.rescaled:
            logger.info(
                translate("The 16-bit loss scale was too high and is lowered; this update is left out.")
            )
        else:
            why = translate("the gradient norm is {norm}", norm=update.grad_norm)
            self._count_skipped(iteration, why, rows)

    def _is_spike(self, loss: float) -> bool:
        """Whether to skip the update because its loss is far above the previous ones."""
        before = self.runner.update_losses
        usual = statistics.median(before) if len(before) >= MIN_LOSSES else math.inf
        if self.spike_ratio is None or not loss > self.spike_ratio * usual:
            if math.isfinite(loss):
                before.append(loss)
            return False
        self.runner.backend.drop_gradients(self.runner.optim_wrapper)
        self.check_update()
        why = translate(
            "the loss is {loss:.4g}, {times:.3g} times the usual {usual:.4g}",
            loss=loss,
            times=loss / usual,
            usual=usual,
        )
        self._count_skipped(self.runner.iter, why, list(self._rows))
        return True

    def _count_skipped(self, iteration: int, why: str, batches: list[Any]) -> None:
        run = self.runner
        run.num_skipped_updates += 1
        self.skipped_in_a_row += 1
        rows = self._name_rows(batches)
        what = translate("iter {iter}: {why}", iter=iteration + 1, why=why)
        logger.warning(
            translate("%s, the update is skipped (%d so far). %s"), what, run.num_skipped_updates, rows
        )
        if self.skipped_in_a_row >= run.max_nonfinite_updates:
            raise TrainingError(
                translate(
                    "{what}, the last of {count} skipped updates in a row; the run stops. {rows}. Look "
                    "at these rows, lower lr, or use bfloat16; earlier checkpoints are intact",
                    what=what,
                    rows=rows,
                    count=self.skipped_in_a_row,
                )
            )

    def _name_if_slow(self) -> None:
        """Name the rows of an update that took far longer than usual; an accelerator is one update behind."""
        self._recent.append(list(self._rows))
        seconds = self._fetching + self._computing
        usual = self._times.add(seconds)
        if usual is None:
            return
        self._num_slow += 1
        if self._num_slow > MAX_SLOW_NAMED:
            return
        recent = list(self._recent) if is_accelerator(self.runner.device) else [self._recent[-1]]
        logger.warning(
            translate(
                "iter %d: the update took %.1f s, usual are %.2f s; %.1f s of it were a wait for data. "
                "Rows of this process: %s"
            ),
            self.runner.iter + 1,
            seconds,
            usual,
            self._fetching,
            named_places(self.dataloader.dataset, [batch for rows in recent for batch in rows]),
        )

    def _name_rows(self, batches: list[Any]) -> str:
        """The rows of an update, of all processes."""
        every = [batch for rows in self.runner.world.all_gather(batches) for batch in rows]
        return translate("Rows in this update: {named}", named=named_places(self.dataloader.dataset, every))

    def _name_batch(self, number: int) -> str:
        """The rows of a batch of the current update, of this process."""
        return translate(
            "Rows in this batch: {named}", named=named_places(self.dataloader.dataset, [self._rows[number]])
        )


def named_places(dataset: Any, batches: list[Any]) -> str:
    """The positions of the rows in `batches`, lists of items of `dataset`; the first if they are many."""
    indices = [i for batch in batches for i in batch]
    places = [translate("item {number}", number=i) for i in indices]
    if hasattr(dataset, "source_places"):
        places = list(dict.fromkeys(place for i in indices for place in dataset.source_places(i)))
    count = len(places) - MAX_ROWS_NAMED
    more = translate(" and {count} more", count=count) if count > 0 else ""
    return ", ".join(places[:MAX_ROWS_NAMED]) + more


class EpochBasedTrainLoop(TrainLoop):
    """The same, with `val_interval` and `val_begin` in epochs."""

    def __init__(self, runner: Run, dataloader: BatchSource, by_epoch: bool = True, **kwargs: Any):
        super().__init__(runner, dataloader, by_epoch=by_epoch, **kwargs)


def sum_counts(run: Run, own: list[int]) -> list[int]:
    """The number of items of each batch of a window, over all processes, from those of this process."""
    # Each sequence-parallel rank has counted all items of the common sequences.
    return (run.world.sum(torch.tensor(own)) // run.world.sequence_size).tolist()
