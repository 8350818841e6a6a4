"""What is said of rewards that cannot be used, before a run and in it."""

from __future__ import annotations

import inspect

from xtuner.errors import did_you_mean
from xtuner.language import translate
from xtuner.rewards.compare import BY_NAME

OPTION = "rollouts.rewards"

_MEASURED = "validation measures the rewards"
NOT_TOGETHER = {
    "deepspeed": "each process samples with the whole model",
    "sequence_parallel_size": "each process samples whole answers",
    "train_cfg.spike_ratio": "the loss of an update is no measure",
    "val_evaluator": _MEASURED,
    "val_cfg": _MEASURED,
}
"""The settings that do not go with `rollouts`, and why."""


def not_together(setting: str) -> str:
    """`setting`, one of NOT_TOGETHER, stands beside `rollouts`."""
    what = "rollouts does not go with {name}, because {why}: leave it out"
    return translate(what, name=setting, why=translate(NOT_TOGETHER[setting]))


def no_rollouts(kind: str) -> str:
    """A model of the type `kind` learns from rewards, and no answers are sampled."""
    what = (
        "{kind} trains on answers that it samples: give the config rollouts = dict(type=Rollouts, "
        "rewards=[...]), and train_dataloader a build_prompt_dataset"
    )
    return translate(what, kind=kind)


def no_rewards() -> str:
    """The list of rewards is empty."""
    what = "{option} is empty: name a function, such as rewards=['my.py:reward'], or one of {names}"
    return translate(what, option=OPTION, names=", ".join(BY_NAME))


def other_count(weights: int, rewards: int) -> str:
    """There are as many weights as given, and another number of rewards."""
    what = "rollouts.weights has {weights} numbers for {rewards} rewards: give one for each"
    return translate(what, weights=weights, rewards=rewards)


def no_such_name(name: str) -> str:
    """`name` is no reward of compare.py."""
    what = "{option} {name}: there is no such reward.{hint} Rewards: {names}, or FILE.py:FUNCTION"
    hint, names = did_you_mean(name, BY_NAME), ", ".join(BY_NAME)
    return translate(what, option=OPTION, name=name, hint=hint, names=names)


def not_loaded(name: str, option: str, error: Exception) -> str:
    """The file or module of `name` raises `error`."""
    return translate("{option} {name} cannot be loaded: {error}", option=option, name=name, error=error)


def no_function(name: str, option: str) -> str:
    """The file or module of `name` has no such function."""
    what = "{option} {name}: there is no function {function}"
    return translate(what, option=option, name=name, function=name.rpartition(":")[2])


def wrong_arguments(name: str, signature: inspect.Signature) -> str | None:
    """The function `name` cannot be called with a question, an answer and a row; None if it can."""
    try:
        signature.bind("question", "answer", {})
    except TypeError:
        what = "{option} {name}: the function takes {signature}, but is called with (question, answer, row)"
        return translate(what, option=OPTION, name=name, signature=signature)
    return None
