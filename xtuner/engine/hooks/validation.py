"""Validates during training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xtuner.engine.hooks.hook import Hook

if TYPE_CHECKING:
    from xtuner.engine.run import Run


class ValidationHook(Hook):
    """Validates every `train_cfg.val_interval`, before the checkpoint of that iteration is written."""

    priority = 80
    in_replay = False

    def after_train_iter(
        self, runner: Run, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if runner.val_loop is not None and runner.train_loop.validates_at(runner.iter):
            runner.val_loop.run()
