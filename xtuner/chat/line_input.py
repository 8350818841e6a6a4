"""The inputs of a dialogue: edited on a terminal, or read from a script.

    who are          a line
    you?             another
                     an empty line ends the input   ->   "who are\\nyou?"

On a terminal a command (`RESET`, `/undo`) ends with its own line, and arrow keys bring earlier inputs back.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtuner.language import translate
from xtuner.log import logger

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer

PROMPT = "\ndouble enter to end input (EXIT: exit chat, RESET: reset history) >>> "
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def read_inputs(
    is_command: Callable[[str], bool], names: Sequence[str] = (), of_files: Sequence[str] = ()
) -> Iterator[str]:
    """The non-empty inputs until their end; commands `names` are completed, and files after `of_files`."""
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if not on_terminal and hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")
    texts = _edited(make_editor(is_command, names, of_files=of_files)) if on_terminal else _from_script()
    for text in texts:
        if cleaned := without_controls(text).strip():
            yield cleaned


def without_controls(text: str) -> str:
    """`text` without control characters; their number is logged."""
    cleaned, count = _CONTROL.subn("", text.replace("\r\n", "\n").replace("\r", "\n"))
    if count:
        logger.warning(translate("%d control characters were left out of the input"), count)
    return cleaned


def _from_script() -> Iterator[str]:
    while True:
        lines: list[str] = []
        while True:
            if not lines:
                sys.stdout.write(translate(PROMPT))
                sys.stdout.flush()
            line = sys.stdin.readline()
            if not line or (lines and not line.strip()):
                break
            if line.strip():
                lines.append(line.rstrip("\r\n"))
        if lines:
            yield "\n".join(lines)
        if not line:
            return


def _edited(editor: PromptSession[str]) -> Iterator[str]:
    while True:
        try:
            yield editor.prompt(translate(PROMPT))
        except KeyboardInterrupt:
            continue  # discards the input, as in a shell
        except EOFError:
            return


def make_editor(
    is_command: Callable[[str], bool],
    names: Sequence[str] = (),
    history: Path | None = None,
    *,
    of_files: Sequence[str] = (),
    **streams: Any,
) -> PromptSession[str]:
    """A multi-line editor with a history; `history` and `streams` have defaults."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.shortcuts import CompleteStyle

    keys = KeyBindings()

    @keys.add("enter")
    def _enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        before_cursor = buffer.document.text_before_cursor
        if not before_cursor.rpartition("\n")[2].strip() or is_command(buffer.text.strip()):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    path = history or _history_file()
    return PromptSession(
        multiline=True,
        key_bindings=keys,
        history=FileHistory(path) if path else InMemoryHistory(),
        completer=_make_completer(names, of_files),
        complete_while_typing=False,
        complete_style=CompleteStyle.READLINE_LIKE,
        reserve_space_for_menu=0,
        prompt_continuation="",
        **streams,
    )


def _make_completer(names: Sequence[str], of_files: Sequence[str]) -> Completer:
    """Completes commands, and the names of files after those `of_files`."""
    from prompt_toolkit.completion import Completer, PathCompleter, WordCompleter
    from prompt_toolkit.document import Document

    commands, paths = WordCompleter(list(names), sentence=True), PathCompleter(expanduser=True)

    class OfCommands(Completer):
        def get_completions(self, document: Any, complete_event: Any) -> Iterator[Any]:
            name, space, path = document.text_before_cursor.partition(" ")
            if space and name in of_files:
                yield from paths.get_completions(Document(path), complete_event)
            else:
                yield from commands.get_completions(document, complete_event)

    return OfCommands()


def _history_file() -> Path | None:
    """The history file, readable only by the user; None if it cannot be written."""
    home = os.environ.get("XDG_STATE_HOME")
    path = (Path(home) if home else Path.home() / ".local" / "state") / "xtuner" / "chat_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with path.open("ab"):
            return path
    except OSError as error:
        logger.info(translate("Inputs are not kept for the next dialogue: %s"), error)
        return None
