"""The steps of a run: forward and backward of one batch each, which the loop asks for.

    loop      yields Step(batch, ...)              receives Outputs
    complete  computes each step by its run alone
    sweep/    computes the steps of several runs together

So a loop knows what comes before and after a batch, and not who computes it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xtuner.engine.backend import to_device
from xtuner.model.train_module import Outputs

if TYPE_CHECKING:
    from xtuner.engine.run import Run


@dataclass(frozen=True)
class Step:
    """A batch whose forward and backward are due.

    `count` of its items have a loss, `window_count` in the whole update, on all processes. `is_last`: the
    update follows.
    """

    batch: dict[str, Any]
    count: int
    window_count: int
    is_last: bool = True


Steps = Generator[Step, Outputs, None]


def train_step(
    run: Run, batch: dict[str, Any], count: int, window_count: int, is_last: bool = True
) -> Outputs:
    """Forward and backward of one batch: this process's part of the update's loss, and its metric sums."""
    batch = to_device(batch, run.device)
    outputs = run.backend.forward_backward(run.optim_wrapper, batch, count, window_count, is_last)
    return {"loss": outputs["loss"].detach(), "sums": outputs["sums"]}


def compute(run: Run, step: Step) -> Outputs:
    """The outputs of `step`, by `run` alone."""
    return train_step(run, step.batch, step.count, step.window_count, step.is_last)


def complete(run: Run, steps: Steps) -> None:
    """Compute all `steps` of `run`; an error is raised within `steps`, which closes what it has opened."""
    try:
        step = next(steps)
        while True:
            try:
                outputs = compute(run, step)
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(outputs)
    except StopIteration:
        return
