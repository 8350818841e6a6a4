"""Looks for a learning rate: a short training whose rate rises until the loss diverges.

    rate    1e-07, 1.2e-07, ... , 1       the same factor from each update to the next
    loss    a mean with weights that fall from update to update, since each update has other rows

    loss | ‾‾‾‾\\         |        steepest   where the loss falls most steeply per power of ten
         |      \\       /             tenth      a tenth of the rate with the least loss
         |       \\_____/
         +-------------------> log(rate)

After Smith 2015 (arXiv 1506.01186). Nothing is saved: the weights of the process end with it.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from xtuner.atomic import written
from xtuner.engine.optim import PendingUpdate
from xtuner.engine.run import Run
from xtuner.engine.runner import sum_counts
from xtuner.engine.steps import train_step
from xtuner.errors import ConfigError
from xtuner.language import padded, translate
from xtuner.svg_curves import svg_curves

FIRST, LAST, NUM_UPDATES = 1e-7, 1.0, 100
# The weight of earlier losses in the mean.
SMOOTHING = 0.9
# The mean has diverged when it is above the least one by more than any loss of the first updates.
NUM_FIRST = 10
# A fall by a smaller fraction of the first loss is noise.
LEAST_FALL = 0.01
# Updates whose means are of few losses.
WARM_UP = 5
FOLDER, PICTURE, NUMBERS = "find_lr", "find_lr.svg", "find_lr.json"
# Of the tried rates one in so many is shown.
EVERY = 5


@dataclass(frozen=True)
class Tried:
    """A rate, the loss of its update before the step, and the mean of the losses so far."""

    rate: float
    loss: float
    mean: float


@dataclass(frozen=True)
class Advice:
    """The suggested rate; a tenth of the rate with the least loss, for comparison."""

    steepest: float
    tenth: float


def try_rates(run: Run, num_updates: int = NUM_UPDATES) -> Iterator[Tried]:
    """Train `run` with rising rates until its loss diverges; the same on all processes."""
    run.model.train()
    batches = run.train_dataloader.start_at(0)
    bases = run.optim_wrapper.base_lrs
    tried: list[Tried] = []
    mean = 0.0
    for number in range(num_updates):
        rate = FIRST * (LAST / FIRST) ** (number / max(1, num_updates - 1))
        for group, base in zip(run.optim_wrapper.param_groups, bases, strict=True):
            group["lr"] = rate * (base / bases[0] if bases[0] else 1.0)
        window = [next(batches)[1] for _ in range(run.optim_wrapper.accumulative_counts)]
        loss, applied = _update(run, window)
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        tried.append(Tried(rate, loss, mean / (1 - SMOOTHING ** (number + 1))))
        yield tried[-1]
        if not applied or not math.isfinite(loss) or _diverged(tried):
            break


def _update(run: Run, window: Sequence[dict]) -> tuple[float, bool]:
    """The loss of an update, and whether the weights changed."""
    counts = sum_counts(run, [run.model.num_items(batch["data"]) for batch in window])
    total, loss = max(sum(counts), 1), torch.zeros((), device=run.device)
    run.optim_wrapper.go_on()
    for number, batch in enumerate(window):
        is_last = number == len(window) - 1
        loss = loss + train_step(run, batch, counts[number], total, is_last)["loss"]
    update = run.backend.update(run.optim_wrapper)
    if isinstance(update, PendingUpdate):
        update = update.wait()
    return float(run.world.sum(loss)), update.applied or update.rescaled


def _diverged(tried: Sequence[Tried]) -> bool:
    usual = max(abs(t.loss) for t in tried[:NUM_FIRST])
    return len(tried) > NUM_FIRST and tried[-1].mean > min(t.mean for t in tried) + usual


def advise(tried: Sequence[Tried]) -> Advice | None:
    """The rates that the curve suggests; None if its loss did not fall."""
    finite = [t for t in tried if math.isfinite(t.mean)]
    if len(finite) <= WARM_UP + 2:
        return None
    # The first means are of few losses, so that they move most.
    curve = finite[WARM_UP:]
    lowest = min(range(len(curve)), key=lambda i: curve[i].mean)
    if lowest < 2 or curve[0].mean - curve[lowest].mean < LEAST_FALL * abs(curve[0].mean):
        return None
    steepest = min(range(1, lowest), key=lambda i: curve[i + 1].mean - curve[i - 1].mean)
    return Advice(curve[steepest].rate, curve[lowest].rate / 10)


def find_rate(run: Run, say: Callable[[str], None]) -> Advice | None:
    """Try rates, and write picture and numbers into the run's folder; what they suggest.

    `say` gets a table line by line while the rates are tried, and the suggestion; on the first process.
    """
    say = say if run.world.is_first else lambda line: None
    tried: list[Tried] = []
    if run.model.learns_from_rewards:
        what = "--find-lr looks for the rate at which a loss falls, and rewards have none: leave it out"
        raise ConfigError(translate(what))
    with run.held:
        say(_line(translate("lr"), translate("loss"), translate("smoothed")))
        for one in try_rates(run):
            tried.append(one)
            if (len(tried) - 1) % EVERY == 0:
                say(_line(f"{one.rate:.2e}", f"{one.loss:.4f}", f"{one.mean:.4f}"))
        found = advise(tried)
        if run.world.is_first:
            with contextlib.suppress(OSError):
                run.log_dir.rmdir()  # made for the log of a run
            _write(run.work_dir, tried, found)
    for line in _describe(run, found):
        say(line)
    return found


def _line(*cells: str) -> str:
    return "".join(padded(cell, 12) for cell in cells).rstrip()


def _write(folder: Path, tried: Sequence[Tried], found: Advice | None) -> None:
    curves = {
        translate("loss"): [(t.rate, t.loss) for t in tried],
        translate("smoothed"): [(t.rate, t.mean) for t in tried],
    }
    picture = svg_curves(
        curves, translate("lr"), log_x=True, marked=None if found is None else found.steepest
    )
    numbers = {"tried": [asdict(t) for t in tried], "suggested": None if found is None else asdict(found)}
    for name, text in {PICTURE: picture, NUMBERS: json.dumps(numbers, indent=1)}.items():
        with written(folder / name) as part:
            part.write_text(text, encoding="utf-8")


def _describe(run: Run, found: Advice | None) -> list[str]:
    where = translate("Curve: {path}", path=run.work_dir / PICTURE)
    if found is None:
        none = translate(
            "no rate is suggested: the loss did not fall by {share:.0%} of its first value", share=LEAST_FALL
        )
        return [none, where]
    suggested = translate(
        "suggested: lr = {steepest:.1e}, at which the loss falls most steeply (a tenth of the rate with the "
        "least loss is {tenth:.1e})",
        steepest=found.steepest,
        tenth=found.tenth,
    )
    return [suggested, where]
