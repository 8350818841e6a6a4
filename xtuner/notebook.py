"""A line in a notebook that shows how far something is: drawn in place, gone at the end, without widgets."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from html import escape

SECONDS_BETWEEN = 0.2


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, which draws what it is given."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return type(shell).__name__ == "ZMQInteractiveShell"


@contextlib.contextmanager
def live_line() -> Iterator[Callable[[str], None]]:
    """A function that shows a text in the place of the one before, a few times a second."""
    from IPython.display import HTML, display

    handle = display(HTML(""), display_id=True)
    shown = 0.0

    def show(text: str) -> None:
        nonlocal shown
        if time.monotonic() - shown >= SECONDS_BETWEEN:
            shown = time.monotonic()
            handle.update(HTML(f"<pre>{escape(text)}</pre>"))

    try:
        yield show
    finally:
        handle.update(HTML(""))
