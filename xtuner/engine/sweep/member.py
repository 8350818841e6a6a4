"""A run that trains beside others: built and moved on in its own turns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from xtuner.config import Config
from xtuner.engine.build import build_run
from xtuner.engine.run import Run, RunOptions
from xtuner.engine.steps import Step, Steps
from xtuner.engine.stop import StopSignal
from xtuner.engine.sweep.turn import Turn
from xtuner.language import translate
from xtuner.model.mixed import why_apart
from xtuner.model.shared import share
from xtuner.model.train_module import Outputs
from xtuner.parallel.world import World


@dataclass(frozen=True)
class Plan:
    """A variant that is to be trained: its name, config and the options of its run."""

    name: str
    config: Config
    options: RunOptions

    @property
    def work_dir(self) -> Path:
        return Path(str(self.options.work_dir))


class Member:
    """A run in progress, with the step that it waits for; None when it is over."""

    def __init__(self, plan: Plan, world: World, base: nn.Module | None, stop: StopSignal) -> None:
        self.plan = plan
        self.turn = Turn(plan.name)
        with self.turn.taken():
            self.run: Run = build_run(plan.config, plan.options, world, None if base is None else share(base))
            self.apart = "" if base is not None else translate("its base is its own")
            self.apart = self.apart or why_apart(self.run.model) or _hooks_that_draw(self.run)
        self.run.train_loop.signals = lambda: contextlib.nullcontext(stop)
        self._steps: Steps = self.run.steps()
        self.step: Step | None = None

    @property
    def precision(self) -> Any:
        """What runs must have in common besides the base to be mixed."""
        wrapper = self.run.optim_wrapper
        return type(wrapper), getattr(wrapper, "dtype", None)

    def begin(self) -> None:
        """Go to the first step."""
        self._go_on(lambda: next(self._steps))

    def advance(self, outputs: Outputs) -> None:
        """Go from the step with these outputs to the next one."""
        self._go_on(lambda: self._steps.send(outputs))

    def fail(self, error: BaseException) -> None:
        """Raise the error of a step within the run, which closes what it has opened."""
        with self.turn.taken():
            self._steps.throw(error)

    def close(self) -> None:
        """Leave the run where it is."""
        with self.turn.taken():
            self._steps.close()

    @contextlib.contextmanager
    def computing(self) -> Iterator[Step]:
        """A context with the step that is due, in the run's turn."""
        assert self.step is not None
        with self.turn.taken():
            yield self.step

    def _go_on(self, move: Callable[[], Step]) -> None:
        with self.turn.taken():
            try:
                self.step = move()
            except StopIteration:
                self.step = None


def _hooks_that_draw(run: Run) -> str:
    """The reason why a hook of the run needs a forward pass of its own, or `""`."""
    from xtuner.engine.hooks import NEFTuneHook

    changes = any(isinstance(h, NEFTuneHook) for h in run.hooks)
    return translate("NEFTuneHook changes its embeddings") if changes else ""
