"""The built-in config that a config was made from, and what was changed."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from xtuner.config.changes import changed_lines
from xtuner.errors import NotFoundError
from xtuner.recipes.catalogue import find, names
from xtuner.recipes.render import render

# Of the lines; a config with less in common was written for itself.
LEAST_IN_COMMON = 0.6


class Nearest(NamedTuple):
    """A built-in config, and the lines that differ: "-" its own, "+" those of the config.

    Comments and empty lines do not count.
    """

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
    return Nearest(best, changed_lines(_code(found), _code(text))) if best else None


def _lines(text: str) -> Counter[str]:
    return Counter(line.strip() for line in _code(text))


def _code(text: str) -> list[str]:
    """The lines of `text` without comments."""
    lines = [line.partition("  # ")[0].rstrip() for line in text.splitlines()]
    return [line for line in lines if line and not line.lstrip().startswith("#")]
