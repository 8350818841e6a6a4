"""Which metric of validation a hook follows, and when a value of it is better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xtuner.errors import ConfigError, did_you_mean
from xtuner.language import translate

RULES: dict[str, Callable[[float, float], bool]] = {
    "less": lambda new, old: new < old,
    "greater": lambda new, old: new > old,
}


def check_rule(rule: str | None, setting: str) -> None:
    """Raise ConfigError, naming `setting`, if `rule` is neither None nor one of RULES."""
    if rule is not None and rule not in RULES:
        raise ConfigError(
            translate("{setting} is {rule!r}; use 'less' or 'greater'", setting=setting, rule=rule)
        )


def check_metric(runner: Any, name: str, setting: str) -> None:
    """Raise ConfigError, naming `setting`, if validation has no metric `name` ("auto": its first)."""
    if runner.val_loop is None:
        raise ConfigError(
            translate(
                "{setting} needs validation: give val_dataloader, such as val_dataloader = "
                "dict(held_out=0.05)",
                setting=setting,
            )
        )
    names = runner.val_loop.metric_names
    if names is not None and name != "auto" and name not in names:
        raise ConfigError(
            translate(
                "{setting} is {name!r}, which validation does not measure.{hint} It measures {names}",
                setting=setting,
                name=name,
                hint=did_you_mean(str(name), names),
                names=", ".join(names),
            )
        )


def value_of(metrics: dict[str, float], name: str) -> tuple[str, float]:
    """The metric and its value; "auto" is the first. ConfigError if validation has not measured it."""
    name = next(iter(metrics)) if name == "auto" else name
    if name not in metrics:
        what = "validation does not measure {name!r}.{hint} It measures {names}"
        hint = did_you_mean(name, metrics)
        raise ConfigError(translate(what, name=name, hint=hint, names=", ".join(metrics)))
    return name, metrics[name]


def rule_for(runner: Any, name: str, rule: str | None) -> str:
    """The rule that is given, else that of the metric: those of val_evaluator are better if larger."""
    return rule or ("greater" if runner.val_loop.is_better_if_larger(name) else "less")
