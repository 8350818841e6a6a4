"""A signal that stops a run with a checkpoint.

first signal     recorded; the loop checks it after each iteration, with several processes after each update;
                 sampling for rewards checks it after each token
a later one      stops the process at once
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from xtuner.language import translate
from xtuner.log import logger
from xtuner.parallel.launch import ONE_PRESS_SECONDS

SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")


class StopSignal:
    """The number of the received signal, or 0."""

    def __init__(self) -> None:
        self.number = 0
        self._came = 0.0

    def note(self, number: int, _frame: Any) -> None:
        """Handle a signal."""
        if self.number and time.monotonic() - self._came > ONE_PRESS_SECONDS:
            raise SystemExit(128 + number)
        if not self.number:
            self.number, self._came = number, time.monotonic()
            logger.warning(
                translate("%s: stopping with a checkpoint; again to stop now"), signal.Signals(number).name
            )


@contextlib.contextmanager
def noting_signals() -> Iterator[StopSignal]:
    """A context in which signals are recorded; only in the main thread."""
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    before = {number: signal.signal(number, stop.note) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
