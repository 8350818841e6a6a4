"""The learning rate as a function of the iteration.

    warm-up then cosine, 100 iterations, LinearLR over [0, 3), CosineAnnealingLR over [3, 100)

    lr   |  /‾‾\\
         | /    ‾‾\\___
         +--------------> iter

A schedule has no state: `value_at(t)` of the whole list is computed from the optimizer's rate, so a
resumed run needs only its iteration. `begin` and `end` count iterations, or epochs if `by_epoch`
is true; `convert_to_iter_based` converts epochs to iterations, so that the rate changes in every one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from xtuner.errors import ConfigError
from xtuner.language import translate

FOREVER = 10**9


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A change of the rate from `begin` up to, not including, `end`; then its last value is kept."""

    begin: float = 0
    end: float = FOREVER
    by_epoch: bool = True
    convert_to_iter_based: bool = False

    def in_iters(self, epoch_length: int) -> Schedule:
        """This schedule with begin and end in its unit: whole iterations or whole epochs."""
        if not (self.by_epoch and self.convert_to_iter_based):
            return self
        end = self.end if self.end == FOREVER else int(self.end * epoch_length)
        return replace(self, by_epoch=False, begin=int(self.begin * epoch_length), end=end)

    def apply(self, value: float, base: float, t: int) -> float:
        """The rate at `t`; `value` is the rate after the previous schedules, `base` that of the optimizer."""
        if t < self.begin or self.end <= self.begin:
            return value
        last = self.end - self.begin - 1
        return self._value(value, base, min(t - self.begin, last), last)

    def _value(self, value: float, base: float, passed: float, last: float) -> float:
        raise AssertionError("a schedule defines _value")


@dataclass(frozen=True, kw_only=True)
class LinearLR(Schedule):
    """Changes linearly from `start_factor` to `end_factor` times the rate."""

    start_factor: float = 1.0 / 3
    end_factor: float = 1.0

    def _value(self, value: float, base: float, passed: float, last: float) -> float:
        share = passed / last if last > 0 else 1.0
        return value * (self.start_factor + (self.end_factor - self.start_factor) * share)


@dataclass(frozen=True, kw_only=True)
class CosineAnnealingLR(Schedule):
    """Decreases to `eta_min` along half a cosine of `T_max` (by default from `begin` to `end`)."""

    T_max: float | None = None
    eta_min: float | None = None
    eta_min_ratio: float | None = None

    def in_iters(self, epoch_length: int) -> Schedule:
        made = super().in_iters(epoch_length)
        if made is not self and self.T_max is not None:
            made = replace(made, T_max=self.T_max * epoch_length)  # type: ignore[call-arg]
        return made

    def _value(self, value: float, base: float, passed: float, last: float) -> float:
        floor = base * self.eta_min_ratio if self.eta_min_ratio is not None else self.eta_min or 0.0
        length = self.T_max or self.end - self.begin
        return floor + (value - floor) * (1 + math.cos(math.pi * passed / length)) / 2


@dataclass(frozen=True, kw_only=True)
class ConstantLR(Schedule):
    """`factor` times the rate until the last step before `end`, then the rate itself."""

    factor: float = 1.0 / 3

    def _value(self, value: float, base: float, passed: float, last: float) -> float:
        return value if passed >= last else value * self.factor


def value_at(schedules: Sequence[Schedule], base: float, iteration: int, epoch_length: int) -> float:
    """The rate in `iteration` (counted from 0) after all `schedules`, each in its unit."""
    value = base
    for schedule in schedules:
        t = iteration // epoch_length if schedule.by_epoch else iteration
        value = schedule.apply(value, base, t)
    return value


def check(schedules: Sequence[object]) -> None:
    """Raise ConfigError for an object that is not a schedule of this module."""
    for i, schedule in enumerate(schedules):
        if not isinstance(schedule, Schedule):
            raise ConfigError(
                translate(
                    "param_scheduler.{i} is a {kind}; use LinearLR, CosineAnnealingLR or ConstantLR",
                    i=i,
                    kind=type(schedule).__name__,
                )
            )
