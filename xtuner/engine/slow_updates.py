"""Updates that take far longer than those before them.

seconds    0.8  0.9  0.8 ... 0.8  9.6        median 0.8: the last one is slow
"""

from __future__ import annotations

import statistics
from collections import deque

RATIO = 5.0
"""An update is slow if it takes so many times the median of the previous ones,"""
LEAST_SECONDS = 1.0
"""and so much more than the median, below which other programs are as likely the reason."""
_MIN_BEFORE = 10


class UpdateTimes:
    """The durations of the last updates."""

    def __init__(self) -> None:
        self._before: deque[float] = deque(maxlen=100)

    def add(self, seconds: float) -> float | None:
        """The median of the updates before if this one is slow, else None."""
        usual = statistics.median(self._before) if len(self._before) >= _MIN_BEFORE else None
        self._before.append(seconds)
        if usual is None or seconds < max(RATIO * usual, usual + LEAST_SECONDS):
            return None
        return usual
