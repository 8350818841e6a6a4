"""The output of a dialogue: plain text in a pipe, streamed Markdown on a terminal.

    answer    # Title \n\n words **wor            finished blocks are printed once and stay;
              -------- printed  ---- redrawn      the one that still grows is drawn anew below them

On a terminal control characters are shown, never obeyed: an answer cannot move the cursor.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any, Protocol

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.text import Text

from xtuner.log import logger

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)$")


class Screen(Protocol):
    """The interface that a dialogue writes to."""

    def show(self, piece: str) -> None:
        """Add `piece` to the answer."""

    def end_answer(self, stats: str) -> None:
        """End the answer; `stats` describes its length and speed."""

    def say(self, text: str) -> None:
        """Print a line of the program."""


def open_screen() -> Screen:
    """A Markdown screen if the terminal supports it, else a plain one."""
    console = Console(highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return MarkdownScreen(console)
    return PlainScreen(sys.stdout.write, sys.stdout.isatty())


class PlainScreen:
    """Prints the answer unformatted; logs the statistics."""

    def __init__(self, write: Callable[[str], Any], hide_controls: bool = False) -> None:
        self._write = write
        self._clean = show_controls if hide_controls else str

    def show(self, piece: str) -> None:
        self._write(self._clean(piece))
        sys.stdout.flush()

    def end_answer(self, stats: str) -> None:
        self._write("\n")
        sys.stdout.flush()
        logger.info("%s", stats)

    def say(self, text: str) -> None:
        self._write(self._clean(text) + "\n")
        sys.stdout.flush()


class MarkdownScreen:
    """Prints the answer as Markdown while it grows."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tail = ""
        self._printed = False
        self._live: Live | None = None

    def show(self, piece: str) -> None:
        self._tail += show_controls(piece)
        if self._live is None:
            self._live = Live(
                console=self._console,
                get_renderable=lambda: _Block(self._tail, growing=True),
                transient=True,
                refresh_per_second=8,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        cut = last_boundary(self._tail)
        if cut:
            done, self._tail = self._tail[:cut], self._tail[cut:]
            self._print(done)

    def end_answer(self, stats: str) -> None:
        rest, self._tail = self._tail, ""
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._print(rest)
        self._printed = False
        self._console.print(Text(stats, style="dim"))

    def say(self, text: str) -> None:
        self._console.print(Text(show_controls(text)), soft_wrap=True)

    def _print(self, text: str) -> None:
        if text.strip():
            if self._printed:
                self._console.print()
            self._console.print(_Block(text), end="")
            self._printed = True


class _Block:
    """Markdown without empty lines around it, cut to the last lines that fit the terminal."""

    def __init__(self, text: str, growing: bool = False) -> None:
        self._text = text
        self._growing = growing

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = max(1, console.height - 3)
        text = self._text
        lines = text.removesuffix("\n").split("\n")
        if self._growing and len(lines) > room + 1 and _FENCE.match(lines[0]):
            # Only the visible part of a long listing is coloured.
            text = "\n".join([lines[0], *lines[-room:]])
        rendered = console.render_lines(as_markdown(text), options.update(height=None), pad=False)
        while rendered and _is_empty(rendered[0]):
            rendered.pop(0)
        while rendered and _is_empty(rendered[-1]):
            rendered.pop()
        for line in rendered[-room:] if self._growing else rendered:
            yield from line
            yield Segment.line()


def _is_empty(line: list[Segment]) -> bool:
    """Whether `line` is invisible: no characters and no background."""
    return not any(part.text.strip() or (part.style and part.style.bgcolor) for part in line)


def as_markdown(text: str) -> Markdown:
    """`text` escaped so that Markdown drops no HTML and keeps line breaks."""
    markdown = Markdown(text, hyperlinks=False)
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("strikethrough").enable("table")
    # Markdown would read `[a]: b` as the definition of a link and drop it.
    markdown.parsed = parser.disable("reference").parse(text)
    for token in markdown.parsed:
        for child in token.children or []:
            if child.type == "softbreak":
                child.type = "hardbreak"
    return markdown


def last_boundary(text: str) -> int:
    """The start of the last Markdown block in `text`; everything before it is finished."""
    boundary = at = 0
    fence = ""
    after_blank = False
    for line in re.findall(r"[^\n]*\n|[^\n]+", text):  # the Markdown parser's line breaks
        mark = _FENCE.match(line.rstrip("\n"))
        if fence:
            closes = mark and mark[1].startswith(fence) and not mark[2].strip()
            if closes and line.endswith("\n"):
                boundary, fence = at + len(line), ""
        else:
            if after_blank and line[:1].strip():
                boundary = at
            if mark and line.endswith("\n"):
                fence = mark[1]
        after_blank = not line.strip() and line.endswith("\n")
        at += len(line)
    return boundary


def show_controls(text: str) -> str:
    """`text` with a visible symbol for each control character but newline and tab."""
    return _CONTROL.sub(_picture, text)


def _picture(match: re.Match[str]) -> str:
    code = ord(match.group())
    return chr(0x2400 + code) if code < 0x20 else "\N{SYMBOL FOR DELETE}" if code == 0x7F else "\ufffd"
