"""The built-in config that a config was made from, and what was changed."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from xtuner.errors import NotFoundError
from xtuner.recipes.catalogue import find, names
from xtuner.recipes.render import render

# Of the lines; a config with less in common was written for itself.
LEAST_IN_COMMON = 0.6


class Nearest(NamedTuple):
    """A built-in config, and the lines that differ: "-" its own, "+" those of the config."""

    name: str
    changes: list[str]


def find_nearest(text: str) -> Nearest | None:
    """The built-in config with the most lines in common with `text`; None if those are too few."""
    own = _lines(text)
    best, most, found = "", LEAST_IN_COMMON, ""
    for name in names():
        try:
            built_in = render(find(name))
        except NotFoundError:  # settings of DeepSpeed, and former scripts, are no configs
            continue
        theirs = _lines(built_in)
        common = (own & theirs).total() / max(own.total(), theirs.total(), 1)
        if common > most:
            best, most, found = name, common, built_in
    return Nearest(best, changes(found, text)) if best else None


def changes(before: str, after: str) -> list[str]:
    """The lines that differ, with "-" or "+" before each; those of comments and empty ones are left out."""
    lines = difflib.unified_diff(_code(before), _code(after), lineterm="", n=0)
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def _lines(text: str) -> Counter[str]:
    return Counter(line.strip() for line in _code(text))


def _code(text: str) -> list[str]:
    return list(_without_comments(text.splitlines()))


def _without_comments(lines: Iterable[str]) -> Iterable[str]:
    for line in lines:
        code = line.partition("  # ")[0].rstrip()
        if code and not code.lstrip().startswith("#"):
            yield code
