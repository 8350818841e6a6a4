"""All checks of a config, at once.

config  ->  Findings(errors, warnings, unchecked, forecast)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from xtuner.check.files import data_bytes, file_faults, folders_nearby, hub_names
from xtuner.check.names import Names, look_at, unmade
from xtuner.check.rewards import reward_faults
from xtuner.check.rows import TryRows, row_faults
from xtuner.check.template import template_faults
from xtuner.config.schema import Fault, built_parts, find_faults, is_of_value, passed_on
from xtuner.config.streaming import streaming_faults
from xtuner.config.trackers import find_unknown_trackers
from xtuner.errors import ConfigError
from xtuner.estimate.forecast import Forecast, forecast, shortages
from xtuner.estimate.processes import ALONE, Division
from xtuner.estimate.trainer import as_engine

Sizes = Callable[[str], Mapping[str, Any] | None]


@dataclass
class Findings:
    """Errors, warnings, the unchecked parts, and the memory and time of the run."""

    errors: list[Fault] = field(default_factory=list)
    warnings: list[Fault] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    forecast: Forecast | None = None

    def raise_errors(self) -> None:
        """ConfigError with the message of each error."""
        if self.errors:
            raise ConfigError(*[fault.message for fault in self.errors])


def check_config(
    config: Mapping[str, Any],
    known_sizes: Sizes | None = None,
    division: Division = ALONE,
    try_rows: TryRows | None = None,
) -> Findings:
    """The findings about `config`, without loading, importing or downloading.

    `division`: the processes of the run. `try_rows` reads the first rows, which takes a moment.
    """
    names = Names()
    for key in built_parts(config):
        look_at(passed_on(config.get(key)), key, names)
    errors, warnings = template_faults(config)
    found = Findings(
        _distinct(
            [
                *find_faults(config),
                *find_unknown_trackers(config),
                *streaming_faults(config),
                *unmade(config),
                *names.faults,
                *file_faults(config),
                *reward_faults(config),
                *errors,
            ]
        ),
        [*folders_nearby(config), *warnings],
    )
    found.unchecked = [*sorted(names.unknown), *hub_names(config)]
    if try_rows is not None:
        faults, unread = row_faults(config, try_rows)
        found.errors += faults
        found.unchecked += unread
    run = as_engine(config)
    found.forecast = forecast(run, known_sizes, division, data_bytes(config))
    if found.forecast is not None:
        found.warnings += shortages(run, found.forecast)
    return found


def _distinct(faults: list[Fault]) -> list[Fault]:
    """One fault for each cause: a wrong name may be used several times, a wrong value violate two rules."""
    first: dict[str, Fault] = {}
    for fault in faults:
        cause = fault.path if is_of_value(fault) else fault.message.removeprefix(f"{fault.path}: ")
        first.setdefault(cause, fault)
    return list(first.values())
