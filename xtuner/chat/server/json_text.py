"""Untrusted JSON, read with limits of size and depth: later code walks through it by recursion."""

from __future__ import annotations

import json
from typing import Any

MAX_DEPTH = 100
_MAX_BRACKETS = 500_000  # those in strings too; reading so many lists takes half a second


def read_json(text: str | bytes) -> Any:
    """The value of `text`; ValueError with a reason if it is not JSON or exceeds a limit."""
    brackets = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    num_brackets = sum(map(text.count, brackets))  # type: ignore[arg-type]
    if num_brackets > _MAX_BRACKETS:
        raise ValueError(f"it has {num_brackets:,} lists and objects, {_MAX_BRACKETS:,} are allowed")
    try:
        value = json.loads(text, parse_constant=_constant)
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from None
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        # Python converts numbers up to some thousands of digits.
        raise ValueError("a number has too many digits" if "digits" in str(error) else str(error)) from None
    if num_brackets <= MAX_DEPTH:
        return value
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


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")
