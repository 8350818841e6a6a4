"""Records the first updates of a run, in `replay.json` beside the log of that start (files.py).

It is written before the first update and after each of those recorded, so a killed run leaves what it did.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtuner.atomic import written
from xtuner.engine.hooks.hook import Hook
from xtuner.engine.replay.batches import describe_batch, name_rows, num_kept
from xtuner.engine.replay.facts import facts_of, initial_weights
from xtuner.engine.replay.files import FORMAT, NAME, Record
from xtuner.log import say_once
from xtuner.model.attention_kernels import noting_kernels

if TYPE_CHECKING:
    from xtuner.engine.run import Run

# Tokens that a process keeps of all its batches together.
MAX_TOKENS = 32_768
# Those of the command line that change the updates.
OPTIONS = ("seed", "fsdp", "deepspeed")


class ReplayHook(Hook):
    """Records the first `num_updates` updates of a run, unless it is resumed.

    `stops`: the run ends after them. `milliseconds` is the time that this took: first that of the facts and
    the file, then of each update.
    """

    # After the learning rate is set, before a checkpoint is written.
    priority = 75

    def __init__(self, num_updates: int, stops: bool = False):
        self.num_updates = num_updates
        self.stops = stops
        self.milliseconds: list[float] = []
        self._is_resumed = False
        self._record: Record | None = None
        self._batches: list[dict[str, Any]] = []
        self._num_tokens = 0
        self._watching = contextlib.ExitStack()
        self._noted: set[str] = set()  # by the current batch
        self._kernels: set[str] = set()

    def after_load_checkpoint(self, runner: Run, checkpoint: dict) -> None:
        self._is_resumed = True

    def before_run(self, runner: Run) -> None:
        if not self.num_updates or self._is_resumed:
            return
        begin = time.perf_counter()
        initial = runner.world.all_gather(initial_weights(runner))
        self._record = {"updates": []}
        if runner.world.is_first:
            self._record = start_record(runner, initial)
            self._write(runner)
        self.milliseconds.append((time.perf_counter() - begin) * 1e3)

    def before_train_iter(self, runner: Run, batch_idx: int, data_batch: Any = None) -> None:
        if self._record is not None:
            self._noted = self._watching.enter_context(noting_kernels())

    def after_train_iter(
        self, runner: Run, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if self._record is None:
            return
        self._watching.close()
        self._kernels |= self._noted
        begin = time.perf_counter()
        rows = runner.train_loop.rows
        entry = describe_batch(data_batch, MAX_TOKENS - self._num_tokens)
        self._num_tokens += num_kept(entry)
        items = rows[len(self._batches)]
        named = name_rows(runner.train_loop.dataloader.dataset, items, len(entry.get("samples", ())))
        count = runner.model.num_items(data_batch["data"])
        self._batches.append({"rows": named, "items": count, "loss": (outputs or {}).get("loss"), **entry})
        if len(self._batches) == len(rows):
            self._end_update(runner, (outputs or {}).get("grad_norm"))
            self.milliseconds.append((time.perf_counter() - begin) * 1e3)

    def _end_update(self, run: Run, grad_norm: Any) -> None:
        assert self._record is not None
        updates = self._record["updates"]
        for batch in self._batches:
            batch["loss"] = None if batch["loss"] is None else float(batch["loss"])
        processes = run.world.all_gather(self._batches)
        self._batches = []
        rates = list(dict.fromkeys(group["lr"] for group in run.optim_wrapper.param_groups))
        norm = None if grad_norm is None else float(grad_norm)
        done = {"update": len(updates) + 1, "iter": run.iter, "lr": rates, "grad_norm": norm}
        updates.append({**done, "processes": processes})
        if run.world.is_first:
            if self._kernels:
                self._record["facts"]["kernels"]["kernel of attention"] = ", ".join(sorted(self._kernels))
            self._write(run)
        if len(updates) == self.num_updates:
            self._record = None
            if self.stops:
                run.train_loop.stop_training = True

    def _write(self, run: Run) -> None:
        path = run.log_dir / NAME
        try:
            with written(path) as part:
                part.write_text(json.dumps(self._record, ensure_ascii=False), encoding="utf-8")
        except OSError as error:
            # The run is more important than its record.
            say_once("{path} cannot be written: {reason}", path=path, reason=error.strerror)


def start_record(run: Run, initial: list[dict[str, str]]) -> Record:
    """The record of a run that has trained nothing yet."""
    return {
        "format": FORMAT,
        "config": {"filename": Path(run.cfg.filename).name, "text": run.cfg.text},
        "options": {name: getattr(run.options, name) for name in OPTIONS},
        "facts": facts_of(run),
        "initial": initial,
        "updates": [],
    }
