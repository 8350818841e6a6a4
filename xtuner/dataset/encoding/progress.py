"""A progress bar with rates, shown on a terminal and in a notebook only.

tokenising ━━━━━━━━╸━━━━━━━ 61,440/120,000 rows  8,412 rows/s  1.1 M tokens/s  0:00:07 left
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from xtuner import dist
from xtuner.language import translate
from xtuner.notebook import in_notebook, live_line


@contextlib.contextmanager
def show_rates(
    title: str, total: int | None, of_samples: bool = False
) -> Iterator[Callable[[int, int], None]]:
    """Yields a function to call with the numbers of rows (or samples) and tokens done; rank 0 has the bar."""
    started = time.perf_counter()
    if dist.rank() == 0 and in_notebook():
        with live_line() as show:
            yield lambda rows, tokens: show(
                f"{title}  {describe_rates(rows, tokens, total, time.perf_counter() - started, of_samples)}"
            )
        return
    if dist.rank() != 0 or not sys.stderr.isatty():
        yield lambda rows, tokens: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn(title), BarColumn(), TextColumn("{task.fields[rates]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=total, rates="")

        def advance(rows: int, tokens: int) -> None:
            rates = describe_rates(rows, tokens, total, time.perf_counter() - started, of_samples)
            progress.update(task, completed=rows, rates=rates)

        yield advance


def describe_rates(
    rows: int, tokens: int, total: int | None, seconds: float, of_samples: bool = False
) -> str:
    """Rows (or samples) done, rates, and the remaining time if the total is known."""
    done = f"{rows:,}" if total is None else f"{rows:,}/{total:,}"
    what = "{done} rows  {rows:,.0f} rows/s  {tokens} tokens/s"
    if of_samples:
        what = "{done} samples  {rows:,.0f} samples/s  {tokens} tokens/s"
    rates = translate(
        what,
        done=done,
        rows=rows / seconds,
        tokens=_short(tokens / seconds),
    )
    if not total or not rows:
        return rates
    left = round(seconds / rows * max(0, total - rows))
    time_left = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
    return rates + translate("  {time} left", time=time_left)


def _short(number: float) -> str:
    """`812`, `14 k` or `1.3 M`."""
    return (
        f"{number / 1e6:.1f} M"
        if number >= 1e6
        else f"{number / 1e3:.0f} k"
        if number >= 1e3
        else f"{number:.0f}"
    )
