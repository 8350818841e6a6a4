"""JSON that others have written, read within bounds: what follows walks through it by recursion."""

from __future__ import annotations

import json
from typing import Any

MAX_DEPTH = 100


def read_json(text: str | bytes) -> Any:
    """The value of `text`; ValueError with a reason where it is no JSON, or too much of it."""
    try:
        value = json.loads(text, parse_int=_integer, parse_constant=_constant)
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from None
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for each in level
            if isinstance(each, (dict, list))
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return value
    raise ValueError(f"it is nested more than {MAX_DEPTH} deep")


def _integer(digits: str) -> int:
    if len(digits) > 100:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
