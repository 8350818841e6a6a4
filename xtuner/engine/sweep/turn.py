"""What belongs to one of several runs in a process, and is there only in its turn.

random numbers    the state of all generators, which the run finds again in its next turn
log file          lines of other runs are not written to it
console           lines begin with the name of the run
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator
from typing import Any

from xtuner.engine.randomness import get_rng_state, set_rng_state
from xtuner.log import logger


class Turn:
    """The state of the run `name` between its turns."""

    def __init__(self, name: str) -> None:
        self._formatter = _Named(name)
        self.random: dict[str, Any] | None = None
        self._handlers: list[logging.Handler] = []

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """A context in which the process is the run's own."""
        others = list(logger.handlers)
        formatters = [handler.formatter for handler in others]
        for handler in others:
            if handler.formatter is not None:
                handler.setFormatter(self._formatter.around(handler.formatter))
        for handler in self._handlers:
            logger.addHandler(handler)
        if self.random is not None:
            set_rng_state(self.random)
        try:
            yield
        finally:
            self.random = get_rng_state()
            self._handlers = [handler for handler in logger.handlers if handler not in others]
            for handler in self._handlers:
                logger.removeHandler(handler)
            for handler, formatter in zip(others, formatters, strict=True):
                handler.setFormatter(formatter)


class _Named(logging.Formatter):
    """Lines of another formatter, with a name before the message."""

    def __init__(self, name: str, inner: logging.Formatter | None = None) -> None:
        super().__init__()
        self._name = name
        self._inner = inner or self

    def around(self, inner: logging.Formatter) -> _Named:
        return _Named(self._name, inner)

    def format(self, record: logging.LogRecord) -> str:
        named = copy.copy(record)
        named.msg, named.args = f"[{self._name}] {record.getMessage()}", ()
        return self._inner.format(named)
