"""What differs between the texts of two configs."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def changed_lines(before: Sequence[str], now: Sequence[str]) -> list[str]:
    """The lines that differ, with "-" or "+" before each."""
    lines = difflib.unified_diff(before, now, lineterm="", n=0)
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]
