"""Numbers of the last iterations, kept as they come and read only when a line is written."""

from __future__ import annotations

from collections import deque
from typing import Any


class History:
    """Per name the last `window` values; tensors stay on their device until they are read."""

    def __init__(self, window: int = 10):
        self._window = window
        self._values: dict[str, deque[Any]] = {}

    def set_window(self, window: int) -> None:
        """Keep `window` values from now on."""
        self._window = window
        self._values = {name: deque(values, maxlen=window) for name, values in self._values.items()}

    def record(self, name: str, value: Any) -> None:
        """Add a number or a tensor of one."""
        self._values.setdefault(name, deque(maxlen=self._window)).append(value)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __iter__(self):
        return iter(self._values)

    def last(self, name: str) -> float:
        """The newest value."""
        return float(self._values[name][-1])

    def mean(self, name: str) -> float:
        """The mean over the kept values."""
        values = [float(v) for v in self._values[name]]
        return sum(values) / len(values)
