"""What a training says of itself: losses in its log and files, its last checkpoint, the curve."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from xtuner.log import logger
from xtuner.svg_curves import svg_curves


class _Watcher(logging.Handler):
    """Reads the iteration and the loss from the lines of the training log."""

    LINE = re.compile(r"Iter\(train\) \[\s*(\d+)/(\d+)\].*\bloss: (\S+)")

    def __init__(self, advance: Callable[[int, int, float], None]) -> None:
        super().__init__()
        self.advance = advance

    def emit(self, record: logging.LogRecord) -> None:
        if match := self.LINE.search(record.getMessage()):
            self.advance(int(match[1]), int(match[2]), float(match[3]))


@contextlib.contextmanager
def watch_log(advance: Callable[[int, int, float], None]) -> Iterator[None]:
    """Calls `advance(done, total, loss)` for each line that training writes to its log."""
    handler = _Watcher(advance)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def read_last_checkpoint(train_dir: Path) -> Path:
    """The checkpoint named in `last_checkpoint`, relative to the current folder if possible."""
    path = Path((train_dir / "last_checkpoint").read_text("utf-8").strip())
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def draw_losses(losses: list[tuple[int, float]], path: Path, iteration: str) -> None:
    """Write the loss curve as an image; `iteration` is the name of its horizontal axis."""
    path.write_text(svg_curves({"loss": losses}, iteration), "utf-8")
