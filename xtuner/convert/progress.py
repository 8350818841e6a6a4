"""A progress bar in bytes, shown on a terminal and in a notebook only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from xtuner.notebook import in_notebook, live_line


@contextmanager
def byte_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function that advances the bar by a number of bytes."""
    if in_notebook():
        done = 0
        with live_line() as show:

            def advance(num_bytes: int) -> None:
                nonlocal done
                done += num_bytes
                show(f"{title}  {done / 1e6:,.0f}/{total / 1e6:,.0f} MB")

            yield advance
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(title, total=total)
        yield lambda num_bytes: progress.advance(task, num_bytes)
