"""Saves the run every so often, keeps the newest few."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xtuner.engine.checkpoint import remove_checkpoint, save_checkpoint
from xtuner.engine.hooks.hook import Hook
from xtuner.log import logger


class CheckpointHook(Hook):
    """Writes `iter_N.pth` or `epoch_N.pth` every `interval` iterations or epochs, and one at the end."""

    priority = "VERY_LOW"

    def __init__(
        self,
        interval: int = -1,
        by_epoch: bool = True,
        save_optimizer: bool = True,
        max_keep_ckpts: int = -1,
        save_last: bool = True,
        out_dir: str | None = None,
    ):
        self.interval = interval
        self.by_epoch = by_epoch
        self.save_optimizer = save_optimizer
        self.max_keep_ckpts = max_keep_ckpts
        self.save_last = save_last
        self.out_dir = out_dir

    def saves_at(self, runner) -> bool:
        """Whether the iteration that is ending will be saved."""
        if self.save_last and runner.iter + 1 == runner.max_iters:
            return True
        if not self.by_epoch:
            return self.every_n_train_iters(runner, self.interval)
        ends_epoch = (runner.iter + 1) % runner.train_loop.epoch_length == 0
        return ends_epoch and self.every_n_epochs(runner, self.interval)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs: Any = None) -> None:
        if not self.saves_at(runner):
            return
        if self.by_epoch:
            name, number, unit = "epoch", runner.epoch + 1, "epochs"
        else:
            name, number, unit = "iter", runner.iter + 1, "iterations"
        logger.info("Saving checkpoint at %d %s", number, unit)
        self._save(runner, f"{name}_{number}.pth")

    def save_iter(self, runner) -> None:
        """Save the iteration that is ending, whether or not its turn has come."""
        logger.info("Saving checkpoint at %d iterations", runner.iter + 1)
        self._save(runner, f"iter_{runner.iter + 1}.pth")

    def _save(self, runner, name: str) -> None:
        folder = Path(self.out_dir) / runner.work_dir.name if self.out_dir else runner.work_dir
        path = folder / name
        kept = [p for p in runner.kept_checkpoints if Path(p).resolve() != path.resolve()]
        runner.kept_checkpoints = [*kept, str(path)]
        state = runner.state(self.save_optimizer)
        runner.call_hooks("before_save_checkpoint", checkpoint=state)
        if runner.world.is_first:
            folder.mkdir(parents=True, exist_ok=True)
            save_checkpoint(state, path, runner.backend.optimizer_file)
        # The oldest goes only now that the newest is safe, and not while updates fail: then the newest may
        # hold weights that a too large step has spoilt.
        while not runner.train_loop.nonfinite_in_a_row and 0 < self.max_keep_ckpts < len(
            runner.kept_checkpoints
        ):
            oldest = Path(runner.kept_checkpoints.pop(0))
            if runner.world.is_first:
                remove_checkpoint(oldest)
