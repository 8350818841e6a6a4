"""Rewards for the form of an answer, whatever it says.

dict(type=Matches, pattern=r"####\\s*-?\\d+\\s*$")    1 if the expression is found in the answer
dict(type=Length, most=400)                          1 up to 400 characters, falling to 0 at 800
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from xtuner.errors import ConfigError
from xtuner.language import translate


class Matches:
    """1 for an answer in which a regular expression is found, with `whole` one that it describes entirely."""

    def __init__(self, pattern: str, whole: bool = False, name: str = "matches"):
        try:
            # A form is mostly one of several lines.
            self._expression = re.compile(pattern, re.DOTALL)
        except re.error as error:
            what = "Matches: {pattern!r} is no regular expression: {error}"
            raise ConfigError(translate(what, pattern=pattern, error=error)) from error
        self._whole, self.name = whole, name

    def __call__(self, question: str, answer: str, row: Mapping[str, Any]) -> float:
        text = answer.strip()
        found = self._expression.fullmatch(text) if self._whole else self._expression.search(text)
        return float(found is not None)


class Length:
    """1 for an answer of `least` to `most` characters, else less; 0 at twice `most` and at none."""

    def __init__(self, most: int, least: int = 0, name: str = "length"):
        if not 0 <= least <= most or not most:
            what = "Length: least is {least} and most {most}: least must be at least 0, and most larger"
            raise ConfigError(translate(what, least=least, most=most))
        self._least, self._most, self.name = least, most, name

    def __call__(self, question: str, answer: str, row: Mapping[str, Any]) -> float:
        length = len(answer.strip())
        if length < self._least:
            return length / self._least
        return max(0.0, min(1.0, 2 - length / self._most))
