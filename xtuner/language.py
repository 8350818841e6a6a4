"""The language that the program speaks to its user: English, or Chinese where that is asked for.

    --lang zh   on the command line of any command, else the first of
    XTUNER_LANG, LC_ALL, LC_MESSAGES, LANG   that is set: zh_CN.UTF-8 and its like: Chinese, all else: English

Texts stand in English where they are said; `xtuner.chinese` has the Chinese by the English. Marks that
scripts look for stay as they are: `xtuner: error:`, names of settings and flags, numbers, paths.
"""

from __future__ import annotations

import contextlib
import os
import re
import textwrap
import unicodedata
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from xtuner.singular import filled

LANGUAGES = ("en", "zh")
_VARIABLE = "XTUNER_LANG"
_HERE: ContextVar[str | None] = ContextVar("language", default=None)

_WIDE, _OPENING, _CLOSING = "\u2e80-\u9fff\uff00-\uffef", "（《「", "，。；：！？）、》」"
# What a line may not be broken within: a word or a Chinese character, and the punctuation at it.
_UNIT = re.compile(rf"[{_OPENING}]*(?:[^\s{_WIDE}]+|[{_WIDE}])[{_CLOSING}]*\s*")


def language() -> str:
    """`zh` or `en`."""
    if here := _HERE.get():
        return here
    names = (_VARIABLE, "LC_ALL", "LC_MESSAGES", "LANG")
    locale = next((value for name in names if (value := os.environ.get(name))), "")
    return "zh" if locale.lower().startswith("zh") else "en"


@contextlib.contextmanager
def speaking(lang: str | None) -> Iterator[None]:
    """Speak `lang` within, also in the processes that are started there; None: what the environment says."""
    before = os.environ.get(_VARIABLE)
    if lang is not None:
        os.environ[_VARIABLE] = lang
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = before


@contextlib.contextmanager
def speaking_here(lang: str | None) -> Iterator[None]:
    """Speak `lang` within, in this thread or task alone; None: what the environment says."""
    token = _HERE.set(lang)
    try:
        yield
    finally:
        _HERE.reset(token)


def translate(text: str, /, **values: Any) -> str:
    """`text` in the user's language, with `values` in its `{slots}`."""
    if language() == "zh":
        from xtuner.chinese import CHINESE

        text = CHINESE.get(text, text)
    return filled(text, **values) if values else text


def cells(text: str) -> int:
    """The columns of a terminal that `text` takes: two for a Chinese character."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def padded(text: str, width: int) -> str:
    """`text` with spaces after it, up to `width` columns; before it where `width` is negative."""
    spaces = " " * (abs(width) - cells(text))
    return text + spaces if width > 0 else spaces + text


def wrap(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` columns; Chinese is broken between any two characters."""
    text = " ".join(text.split())
    if cells(text) == len(text):
        return textwrap.wrap(text, width)
    lines = [""]
    for unit in _UNIT.findall(text):
        if lines[-1] and cells(lines[-1] + unit.rstrip()) > width:
            lines.append("")
        lines[-1] += unit
    return [line.rstrip() for line in lines]
