"""The moments of a run, and the order in which hooks are called.

    before_run
      before_train
        before_fetch, after_fetch                           around each wait for a batch
        before_train_epoch                                  every pass over the data
          before_train_iter, after_train_iter               every batch
          before_update                                     before each change of the weights
        after_train_epoch
        before_val_epoch, after_val_epoch                   around each validation, within after_train_iter
          before_stop                                       after_train_iter, if the run was asked to stop
      after_train
    after_run          before_save_checkpoint, after_load_checkpoint

Any object with some of these methods is a hook; a smaller priority is called earlier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xtuner.errors import ConfigError, did_you_mean
from xtuner.language import translate

if TYPE_CHECKING:
    from xtuner.engine.run import Run

PRIORITIES = {
    "HIGHEST": 0,
    "VERY_HIGH": 10,
    "HIGH": 30,
    "ABOVE_NORMAL": 40,
    "NORMAL": 50,
    "BELOW_NORMAL": 60,
    "LOW": 70,
    "VERY_LOW": 90,
    "LOWEST": 100,
}
MOMENTS = [
    "before_run",
    "after_run",
    "before_train",
    "after_train",
    "before_fetch",
    "after_fetch",
    "before_train_epoch",
    "after_train_epoch",
    "before_train_iter",
    "after_train_iter",
    "before_update",
    "before_stop",
    "before_val_epoch",
    "after_val_epoch",
    "before_save_checkpoint",
    "after_load_checkpoint",
]


class Hook:
    """Base of hooks; every method does nothing. `runner` is the `Run`."""

    priority: str | int = "NORMAL"
    # Whether `xtuner replay` has it too; False for one that only saves, measures or shows.
    in_replay: bool = True

    def before_run(self, runner: Run) -> None: ...
    def after_run(self, runner: Run) -> None: ...
    def before_train(self, runner: Run) -> None: ...
    def after_train(self, runner: Run) -> None: ...
    def before_fetch(self, runner: Run) -> None: ...
    def after_fetch(self, runner: Run) -> None: ...
    def before_train_epoch(self, runner: Run) -> None: ...
    def after_train_epoch(self, runner: Run) -> None: ...
    def before_train_iter(self, runner: Run, batch_idx: int, data_batch: Any = None) -> None: ...
    def before_update(self, runner: Run) -> None: ...
    def after_train_iter(
        self, runner: Run, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None: ...
    def before_stop(self, runner: Run) -> None: ...
    def before_val_epoch(self, runner: Run) -> None: ...
    def after_val_epoch(self, runner: Run, metrics: dict[str, float]) -> None: ...
    def before_save_checkpoint(self, runner: Run, checkpoint: dict) -> None: ...
    def after_load_checkpoint(self, runner: Run, checkpoint: dict) -> None: ...

    def every_n_train_iters(self, runner: Run, n: int) -> bool:
        """Whether the number of finished iterations, with the current one, is a multiple of `n`."""
        return n > 0 and (runner.iter + 1) % n == 0

    def every_n_epochs(self, runner: Run, n: int) -> bool:
        """Whether the number of finished epochs, with the current one, is a multiple of `n`."""
        return n > 0 and (runner.epoch + 1) % n == 0


def call_hooks(hooks: list[Any], moment: str, runner: Any, **kwargs: Any) -> None:
    """Call `moment` on each of `hooks` that has it."""
    assert moment in MOMENTS, moment
    for hook in hooks:
        method = getattr(hook, moment, None)
        if method is not None:
            method(runner, **kwargs)


def sort_hooks(hooks: list[tuple[Any, str | int | None]]) -> list[Any]:
    """Hooks sorted by the given priority, else their own; equal ones stay in order."""
    return [hook for hook, _ in sorted(hooks, key=lambda pair: _rank(*pair))]


def _rank(hook: Any, priority: str | int | None) -> int:
    if not any(callable(getattr(hook, moment, None)) for moment in MOMENTS):
        raise ConfigError(
            translate(
                "{kind} is not a hook: it has none of the methods {names}",
                names=", ".join(MOMENTS),
                kind=type(hook).__name__,
            )
        )
    value = getattr(hook, "priority", "NORMAL") if priority is None else priority
    if isinstance(value, str) and value.upper() not in PRIORITIES:
        raise ConfigError(
            translate(
                "priority {value!r} of {kind} is unknown.{hint}",
                value=value,
                hint=did_you_mean(value, PRIORITIES),
                kind=type(hook).__name__,
            )
        )
    return PRIORITIES[value.upper()] if isinstance(value, str) else int(value)
