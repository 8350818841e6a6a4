"""Saves the run every so often, keeps the newest few and the best."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtuner.engine.checkpoints.background import BackgroundWriter
from xtuner.engine.checkpoints.files import clear_unfinished, remove_checkpoint, save_checkpoint
from xtuner.engine.checkpoints.sharded import ShardedWriter, separate
from xtuner.engine.hooks.hook import Hook
from xtuner.engine.hooks.validated import RULES, check_metric, check_rule, rule_for, value_of
from xtuner.engine.resume import state_of
from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.locks import writing
from xtuner.log import logger

if TYPE_CHECKING:
    from xtuner.engine.run import Run


class CheckpointHook(Hook):
    """Writes `iter_N.pth` or `epoch_N.pth` every `interval` iterations or epochs, and one at the end.

    `save_best` names what validation measures ("auto": the first of it): the weights with the best value by
    `rule` ("less" or "greater") are kept as `best_loss_iter_N.pth`. With `save_async` training goes on while
    a file is written, which takes the memory of a second copy of weights and optimiser state.

    With `sharded` a checkpoint is a folder to which each process writes its own part, so that none holds the
    whole in memory; any number of processes resumes from it. By default it is on for full fine-tuning with
    FSDP in a folder that all processes see; else rank 0 writes one file.
    """

    priority = "VERY_LOW"
    in_replay = False

    def __init__(
        self,
        interval: int = -1,
        by_epoch: bool = True,
        save_optimizer: bool = True,
        max_keep_ckpts: int = -1,
        save_last: bool = True,
        out_dir: str | None = None,
        save_best: str | None = None,
        rule: str | None = None,
        save_async: bool = False,
        sharded: bool | None = None,
    ):
        check_rule(rule, "default_hooks.checkpoint.rule")
        self.interval = interval
        self.by_epoch = by_epoch
        self.save_optimizer = save_optimizer
        self.max_keep_ckpts = max_keep_ckpts
        self.save_last = save_last
        self.out_dir = out_dir
        self.save_best = save_best
        self.rule = rule
        self.sharded = sharded
        self._best_value: float | None = None
        self._shards: ShardedWriter | None = None
        self._writer = BackgroundWriter() if save_async else None

    def before_run(self, runner: Run) -> None:
        if self.save_best is not None:
            check_metric(runner, self.save_best, "default_hooks.checkpoint.save_best")
        if runner.world.is_first:
            folder = self._folder(runner)
            if self.out_dir:
                runner.held.enter_context(writing(folder, "CheckpointHook.out_dir", folder=True))
            clear_unfinished(folder)
        self._shards = self._make_shards(runner)

    def _make_shards(self, runner: Run) -> ShardedWriter | None:
        """What writes sharded checkpoints; None if rank 0 is to write whole ones."""
        if self.sharded and not runner.backend.can_save_parts:
            raise ConfigError(
                translate(
                    "default_hooks.checkpoint.sharded: DeepSpeed's states cannot be written in parts; remove "
                    "it, or train with fsdp = True"
                )
            )
        by_default = runner.backend.can_save_parts and runner.backend.gathers_weights
        by_default = by_default and not runner.model.uses_adapter
        if not (by_default if self.sharded is None else self.sharded):
            return None
        shards = ShardedWriter(runner.world)
        folder = self._folder(runner)
        if shards.is_seen_by_all(folder):
            if self._writer is not None:
                self._writer.snapshots.mesh = shards.mesh
            return shards
        if self.sharded:
            raise ConfigError(
                translate(
                    "default_hooks.checkpoint.sharded needs a folder that all processes see, which "
                    "{folder} is not: use a shared one, or sharded = False",
                    folder=folder,
                )
            )
        logger.warning(
            translate(
                "Not all processes see %s: rank 0 writes whole checkpoints, and needs the memory for one"
            ),
            folder,
        )
        return None

    def saves_at(self, runner: Run) -> bool:
        """Whether the iteration that is ending will be saved."""
        if self.save_last and runner.iter + 1 == runner.max_iters:
            return True
        if not self.by_epoch:
            return self.every_n_train_iters(runner, self.interval)
        ends_epoch = (runner.iter + 1) % runner.train_loop.epoch_length == 0
        return ends_epoch and self.every_n_epochs(runner, self.interval)

    def after_train_iter(
        self, runner: Run, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if self._writer is not None:
            self._writer.raise_error()
        if not self.saves_at(runner):
            return
        number, unit = self._count(runner)
        logger.info(translate("Saving checkpoint at %d %s"), number, translate(unit))
        self._save(runner, f"{self._place(runner)}.pth")

    def before_update(self, runner: Run) -> None:
        if self._writer is not None:
            self._writer.wait_for_copy()

    def after_val_epoch(self, runner: Run, metrics: dict[str, float]) -> None:
        if self.save_best is None:
            return
        name, value = value_of(metrics, self.save_best)
        best, is_better = self._best_value, RULES[rule_for(runner, name, self.rule)]
        if math.isnan(value) or not (best is None or is_better(value, best)):
            return
        number, unit = self._count(runner)
        said = translate("Saving the best checkpoint: %s is %.4f, after %d %s")
        logger.info(said, name, value, number, translate(unit))
        self._best_value = value
        self._save_best(runner, name)

    def before_save_checkpoint(self, runner: Run, checkpoint: dict[str, Any]) -> None:
        checkpoint["best_value"] = self._best_value

    def after_load_checkpoint(self, runner: Run, checkpoint: dict[str, Any]) -> None:
        self._best_value = checkpoint.get("best_value")

    def after_run(self, runner: Run) -> None:
        self.finish()

    def before_stop(self, runner: Run) -> None:
        # A run that stops before its first update has saved nothing.
        if runner.iter < 0 or not self.saves_at(runner):
            logger.info(translate("Saving checkpoint at %d iterations"), runner.iter + 1)
            self._save(runner, f"iter_{runner.iter + 1}.pth")
        self.finish()

    def finish(self) -> None:
        """Return when all that was to be written is; raises what went wrong."""
        if self._writer is not None:
            self._writer.wait()

    def _count(self, runner: Run) -> tuple[int, str]:
        return (runner.epoch + 1, "epochs") if self.by_epoch else (runner.iter + 1, "iterations")

    def _place(self, runner: Run) -> str:
        number, unit = self._count(runner)
        return f"{'epoch' if unit == 'epochs' else 'iter'}_{number}"

    def _folder(self, runner: Run) -> Path:
        return Path(self.out_dir) / runner.work_dir.name if self.out_dir else runner.work_dir

    def _save(self, runner: Run, name: str) -> None:
        runner.train_loop.check_update()
        path = self._folder(runner) / name
        # A run that began from a checkpoint of another folder leaves that one alone.
        here = [p for p in runner.kept_checkpoints if Path(p).resolve().parent == path.resolve().parent]
        kept = [p for p in here if Path(p).resolve() != path.resolve()]
        runner.kept_checkpoints = [*kept, str(path)]
        state = self._state(runner, self.save_optimizer)
        # The oldest goes only when the newest is safe, and not while updates fail: then the newest may
        # hold weights that a too large step has spoilt.
        oldest: list[Path] = []
        while not runner.train_loop.skipped_in_a_row and 0 < self.max_keep_ckpts < len(
            runner.kept_checkpoints
        ):
            oldest.append(Path(runner.kept_checkpoints.pop(0)))
        self._write(runner, state, path, functools.partial(_remove, oldest))

    def _save_best(self, runner: Run, metric: str) -> None:
        stem = f"best_{metric.replace('/', '_')}"
        path = self._folder(runner) / f"{stem}_{self._place(runner)}.pth"
        state = self._state(runner, with_optimizer=False)
        self._write(runner, state, path, functools.partial(_remove_others, path, stem), is_newest=False)

    def _state(self, runner: Run, with_optimizer: bool) -> dict[str, Any]:
        state = state_of(runner, with_optimizer, in_parts=self._shards is not None)
        runner.call_hooks("before_save_checkpoint", checkpoint=state)
        return state

    def _write(
        self,
        runner: Run,
        state: dict[str, Any],
        path: Path,
        clean: Callable[[], None],
        is_newest: bool = True,
    ) -> None:
        """Write `state`, then `clean`; in the background if that was asked for."""
        first = runner.world.is_first
        content: Any = state
        save: Callable[..., None] = functools.partial(
            save_checkpoint, optimizer_file=runner.backend.optimizer_file
        )
        if self._shards is not None:
            content, save = separate(state), self._shards.save
        elif not first:
            return
        write = functools.partial(_write, save, path, is_newest, clean if first else None)
        if self._writer is None:
            write(content)
        else:
            self._writer.write(content, write)


def _write(
    save: Callable[..., None], path: Path, is_newest: bool, clean: Callable[[], None] | None, state: Any
) -> None:
    if clean is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    save(state, path, is_newest=is_newest)
    if clean is not None:
        clean()


def _remove(paths: list[Path]) -> None:
    for path in paths:
        remove_checkpoint(path)


def _remove_others(path: Path, stem: str) -> None:
    _remove([other for other in path.parent.glob(f"{stem}_*.pth") if other != path])
