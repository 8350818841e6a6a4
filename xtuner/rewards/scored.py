"""Several rewards with weights, for many answers at once.

rewards = ["numeric", "my.py:polite", dict(type=Matches, pattern=...), dict(type=load_scorer, path=...)]
weights = [1, 0.5, 0.2, 1]

    (question, answer, row) of each answer -> [answers, rewards] -> the weighted sum

A reward is a function `(question, answer, row) -> float`, of `FILE.py:function` or in the config; a name of
compare.py; or an object whose `scores` gives numbers for dialogues, as a trained reward model does.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xtuner.errors import ConfigError, DataError, XTunerError
from xtuner.language import translate
from xtuner.rewards import faults
from xtuner.rewards.compare import BY_NAME
from xtuner.rewards.functions import check_takes, find_function


@dataclass(frozen=True)
class Answer:
    """An answer, the row of its question, and where that stands."""

    question: str
    text: str
    reference: str | None
    row: Mapping[str, Any]
    place: str
    messages: Sequence[Mapping[str, Any]] = field(default_factory=list)

    @property
    def dialogue(self) -> dict[str, Any]:
        """The whole conversation, for an object that scores dialogues."""
        return {"messages": [*self.messages, {"role": "assistant", "content": self.text}]}


@dataclass(frozen=True)
class Reward:
    """A name for the log, and the numbers of answers."""

    name: str
    score: Callable[[Sequence[Answer]], Sequence[Any]]


class Rewards:
    """All rewards of a config, with their weights."""

    def __init__(self, rewards: Any, weights: Sequence[float] | None = None) -> None:
        given = list(rewards) if isinstance(rewards, (list, tuple)) else [rewards]
        if not given or None in given:
            raise ConfigError(faults.no_rewards())
        self._rewards = [make_reward(one) for one in given]
        self.weights = np.array([1.0] * len(given) if weights is None else list(weights), np.float64)
        if len(self.weights) != len(given):
            raise ConfigError(faults.other_count(len(self.weights), len(given)))

    @property
    def names(self) -> list[str]:
        """A name for each reward; equal ones are numbered."""
        given = [reward.name for reward in self._rewards]
        counts = [given[:number].count(name) for number, name in enumerate(given)]
        return [f"{name}_{count + 1}" if count else name for name, count in zip(given, counts, strict=True)]

    def score(self, answers: Sequence[Answer]) -> np.ndarray:
        """The numbers `[answers, rewards]`; DataError with row, answer and function if one is missing."""
        found = np.zeros((len(answers), len(self._rewards)))
        if not answers:
            return found
        for column, reward in enumerate(self._rewards):
            for row, (answer, value) in enumerate(zip(answers, reward.score(answers), strict=True)):
                found[row, column] = _checked(value, reward.name, answer)
        return found


def make_reward(given: Any) -> Reward:
    """The reward of a config's `given`: a name, a function, or an object that scores dialogues."""
    if isinstance(given, str):
        return _by_name(given)
    name = getattr(given, "name", None) or getattr(given, "__name__", None) or type(given).__name__.lower()
    if callable(getattr(given, "scores", None)):
        return Reward(str(name), lambda answers: given.scores([answer.dialogue for answer in answers]))
    if not callable(given) or inspect.isclass(given):
        what = (
            "{option} has {value!r:.80}: a reward is a function (question, answer, row), its name "
            "FILE.py:function, one of {names}, or dict(type=Matches, pattern=...)"
        )
        raise ConfigError(translate(what, option=faults.OPTION, value=given, names=", ".join(BY_NAME)))
    check_takes(given, str(name))
    return Reward(str(name), lambda answers: [_called(given, str(name), answer) for answer in answers])


def _by_name(name: str) -> Reward:
    if name in BY_NAME:
        compare = BY_NAME[name]
        return Reward(name, lambda answers: [compare(a.text, _reference(a, name)) for a in answers])
    if ":" not in name:
        raise ConfigError(faults.no_such_name(name))
    return make_reward(find_function(name, faults.OPTION))


def _reference(answer: Answer, name: str) -> str:
    if answer.reference is None:
        what = "{place}: the row has no answer that the reward {name} could compare with"
        raise DataError(translate(what, place=answer.place, name=name))
    return answer.reference


def _called(function: Callable[..., Any], name: str, answer: Answer) -> Any:
    try:
        return function(answer.question, answer.text, answer.row)
    except XTunerError:
        raise
    except Exception as error:
        what = "{place}: the reward {name} failed for the answer {answer!r:.200}: {kind}: {error}"
        kind = type(error).__name__
        raise DataError(
            translate(what, place=answer.place, name=name, answer=answer.text, kind=kind, error=error)
        ) from error


def _checked(value: Any, name: str, answer: Answer) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        what = (
            "{place}: the reward {name} gave {value!r:.80} for the answer {answer!r:.200}: it must be a "
            "number"
        )
        raise DataError(translate(what, place=answer.place, name=name, value=value, answer=answer.text))
    return number
