"""What an answer looks like on a terminal and in a pipe."""

import io
import logging

import pytest
from rich.console import Console

from xtuner.chat.screen import MarkdownScreen, PlainScreen, _Block, last_boundary, open_screen, show_controls


def drawn(text):
    """The lines that stay on a terminal after `text` has come in pieces of three characters."""
    console = Console(file=io.StringIO(), width=40, height=20, force_terminal=True, color_system=None)
    screen = MarkdownScreen(console)
    for at in range(0, len(text), 3):
        screen.show(text[at : at + 3])
    screen.end_answer("2 tokens")
    # What a live region draws again ends with "up one line, erase it"; replay that.
    lines = [""]
    for part in _parts(console.file.getvalue()):
        if part == "\n":
            lines.append("")
        elif part == "\x1b[1A":
            lines.pop()
        elif part in ("\r", "\x1b[2K"):
            lines[-1] = ""
        elif not part.startswith("\x1b"):
            lines[-1] += part
    return [line.rstrip() for line in lines]


def _parts(text):
    import re

    return [part for part in re.split(r"(\x1b\[[?\d;]*[A-Za-z]|\n|\r)", text) if part]


def test_blocks_are_printed_once_and_in_order():
    """Paragraphs, lists and listings stand as Markdown draws them, however they came."""
    text = "Some **bold** words\non two lines.\n\n1. one\n2. two\n\n```python\nx = 1\n\ny = 2\n```\nEnd."
    lines = drawn(text)
    assert lines == [
        *("Some bold words", "on two lines.", "", " 1 one", " 2 two", ""),
        # A listing has a line of its own background above and below it.
        *("", " x = 1", "", " y = 2", "", "", "End.", "2 tokens", ""),
    ]


def test_nothing_of_an_answer_vanishes():
    """What looks like HTML or a link's definition is text."""
    lines = drawn("<think>so</think> <eoa>\n\n[a]: http://b\n\n<b>\nx\n")
    text = " ".join(" ".join(lines).split())
    assert text == "<think>so</think> <eoa> [a]: http://b <b> x 2 tokens"


def test_control_characters_are_shown_not_obeyed():
    """An answer cannot clear the screen or move the cursor."""
    assert show_controls("a\x1b[2Jb\x00\r\x7f\x9b\n\tc") == "a␛[2Jb␀␍␡\ufffd\n\tc"
    assert "␛[2J" in "".join(drawn("a\x1b[2J"))


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("one\n", "one\n"),
        ("one\n\n", "one\n\n"),
        ("one\n\ntwo", "two"),
        ("- a\n\n  more of a", "- a\n\n  more of a"),
        ("```\na\n\nb", "```\na\n\nb"),
        ("```\na\n```", "```\na\n```"),
        ("```\na\n```\n", ""),
        ("````\n```\n\nx\n````\nend", "end"),
        ("~~~\n```\n\nx", "~~~\n```\n\nx"),
        ("a\u2028\u2028b", "a\u2028\u2028b"),
        ("a\x85```\n\nb", "b"),
    ],
)
def test_where_a_block_ends(text, rest):
    """A block ends before the next one begins at the margin, or with its closing fence."""
    assert text[last_boundary(text) :] == rest


def test_a_growing_block_never_outgrows_the_terminal():
    """Of a long listing the last lines are drawn."""
    console = Console(file=io.StringIO(), width=40, height=10, force_terminal=True, color_system=None)
    console.print(_Block("```python\n" + "".join(f"line {i}\n" for i in range(1000)), growing=True))
    lines = console.file.getvalue().splitlines()
    assert len(lines) <= 8
    assert any("line 999" in line for line in lines)


def test_a_pipe_gets_plain_text(capsys, caplog):
    """In a pipe the answer is printed unformatted; its statistics are logged."""
    screen = open_screen()
    assert isinstance(screen, PlainScreen)
    with caplog.at_level(logging.INFO, "xtuner"):
        screen.show("**a**\x1b")
        screen.end_answer("5 tokens")
        screen.say("Log: done")
    assert capsys.readouterr().out == "**a**\x1b\nLog: done\n"
    assert "5 tokens" in caplog.text
