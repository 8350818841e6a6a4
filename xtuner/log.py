"""The one logger: rank 0 speaks, on the console and, once a run exists, in its log file.

    console   11/21 09:30:12 - mmengine - INFO - Iter(train) [ 10/720]  lr: 9.0001e-05 ...
    file      2026/11/21 09:30:12 - mmengine - INFO - Iter(train) [ 10/720]  lr: 9.0001e-05 ...

Lines that are said before a run's file exists, as those of the config and the data, are written to it first.

The word `mmengine` is part of the format that users' log readers expect.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import sys
from collections import deque
from pathlib import Path
from typing import Any

from xtuner import dist
from xtuner.language import translate
from xtuner.singular import agreeing

FORMAT = "%(asctime)s - mmengine - %(levelname)s - %(message)s"

logger = logging.getLogger("xtuner")
_said: set[Any] = set()
# Lines that wait for a file; a command that never opens one keeps the newest.
MAX_EARLIER = 1000


def _agree(record: logging.LogRecord) -> bool:
    """Keep `record`, with singular words behind a number of one."""
    if isinstance(record.args, tuple) and isinstance(record.msg, str):
        record.msg = agreeing(record.msg, record.args)
    return True


logger.addFilter(_agree)


class _StderrHandler(logging.StreamHandler):
    """Writes to whatever `sys.stderr` is at the time, so redirection works."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _RunsFile(logging.FileHandler):
    """Writes to the file of a run; where that fails, the run goes on without it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        logger.removeHandler(self)
        logger.warning(
            translate("%s cannot be written: %s; the run goes on without it"),
            self.baseFilename,
            error.strerror,
        )

    def close(self) -> None:
        # What is still in the buffer of a full disk is lost; that was logged.
        with contextlib.suppress(OSError):
            super().close()


class _Earlier(logging.Handler):
    """Keeps the lines that are said while no file is open."""

    def __init__(self) -> None:
        super().__init__()
        self.records: deque[logging.LogRecord] = deque(maxlen=MAX_EARLIER)

    def emit(self, record: logging.LogRecord) -> None:
        if any(isinstance(h, _RunsFile) for h in logger.handlers):
            return
        kept = copy.copy(record)
        # The arguments may be large.
        kept.msg, kept.args = record.getMessage(), None
        self.records.append(kept)


def start_console(level: int | str = "INFO") -> None:
    """Show log lines on stderr; ranks other than 0 only errors. Calling it again changes the level."""
    if not any(isinstance(h, _StderrHandler) for h in logger.handlers):
        handler = _StderrHandler()
        handler.setFormatter(logging.Formatter(FORMAT, "%m/%d %H:%M:%S"))
        logger.addHandler(handler)
        logger.addHandler(_Earlier())
        logger.propagate = False
    for earlier in _earlier():  # those of another command in this process
        earlier.records.clear()
    logger.setLevel(level if dist.rank() == 0 else "ERROR")


def start_file(path: Path) -> logging.Handler:
    """Also write log lines to `path`, with those said before; returns the handler for `stop_file`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _RunsFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(FORMAT, "%Y/%m/%d %H:%M:%S"))
    before = [record for earlier in _earlier() for record in earlier.records]
    for earlier in _earlier():
        earlier.records.clear()
    logger.addHandler(handler)
    for record in before:
        if handler in logger.handlers:  # the disk may be full
            handler.handle(record)
    return handler


def _earlier() -> list[_Earlier]:
    return [handler for handler in logger.handlers if isinstance(handler, _Earlier)]


def stop_file(handler: logging.Handler) -> None:
    """Close what `start_file` opened."""
    logger.removeHandler(handler)
    handler.close()


def say_once(text: str, level: int = logging.WARNING, **values: Any) -> None:
    """Log `translate(text, **values)`, the first time that these come."""
    # Some come with every row: what was logged is known before the text is made.
    key: Any = (text, *values.values()) if values else text
    try:
        is_known = key in _said
    except TypeError:  # of a list or a dict
        key = (text, repr(values))
        is_known = key in _said
    if not is_known:
        _said.add(key)
        logger.log(level, translate(text, **values))
