"""Numbers of the last iterations, stored as tensors and read only when a line is written.

record        a number of this process            time, lr
record_part   this process's part of a sum        loss, metrics: `add_parts` sums those of all processes
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


class History:
    """The last `window` values of each name; tensors stay on their device until they are read.

    `spare` older values are kept too, for a resumed run that begins an update again.
    """

    def __init__(self, window: int = 10, spare: int = 0):
        self._window, self._num_kept = window, window + spare
        self._values: dict[str, deque[Any]] = {}
        # Newest parts that are not summed yet: name -> their number.
        self._num_parts: dict[str, int] = {}

    def set_window(self, window: int, spare: int = 0) -> None:
        """Means are over `window` values from now on."""
        self._window, self._num_kept = window, window + spare
        self._values = {name: deque(values, maxlen=self._num_kept) for name, values in self._values.items()}

    def record(self, name: str, value: Any) -> None:
        """Add a number or a tensor of one element."""
        self._values.setdefault(name, deque(maxlen=self._num_kept)).append(value)

    def record_part(self, name: str, value: Tensor) -> None:
        """Add this process's part of a sum; every process records the same names."""
        self.record(name, value)
        self._num_parts[name] = min(self._num_parts.get(name, 0) + 1, self._num_kept)

    def add_parts(self, add: Callable[[Tensor], Tensor]) -> None:
        """Replace parts by their sums over processes, with one call of `add`; a collective."""
        parts = [p for name, count in self._num_parts.items() for p in list(self._values[name])[-count:]]
        if not parts:
            return
        sums = iter(add(torch.stack(parts).float()).tolist())
        for name, count in self._num_parts.items():
            for at in range(-count, 0):
                self._values[name][at] = next(sums)
        self._num_parts = {}

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def kept(self) -> dict[str, list[float]]:
        """The kept values of each name, oldest first."""
        return {name: [float(v) for v in values] for name, values in self._values.items()}

    def last(self, name: str) -> float:
        """The newest value."""
        return float(self._values[name][-1])

    def mean(self, name: str) -> float:
        """The mean over the window."""
        values = [float(v) for v in list(self._values[name])[-self._window :]]
        return sum(values) / len(values)
