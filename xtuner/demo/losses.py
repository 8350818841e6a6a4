"""What a training says of itself: losses in its log and files, its last checkpoint, the curve."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from xtuner.log import logger


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


def draw_losses(losses: list[tuple[int, float]], path: Path, words: dict[str, str]) -> None:
    """Write the loss curve as an image."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(title=words["plot_title"], xlabel=words["plot_x"], ylabel=words["plot_y"])
    axes.plot(*zip(*losses, strict=True), marker="o", markersize=3)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
