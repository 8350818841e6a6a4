"""A dialogue in the terminal, or with a script on stdin.

input lines, an empty one ends them  ->  EXIT | RESET | /command | a question  ->  the answer, word by word
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from xtuner.chat.commands import COMMANDS, FILE_COMMANDS, is_command, run_command
from xtuner.chat.dialogue import Dialogue
from xtuner.chat.line_input import PROMPT, read_inputs
from xtuner.chat.opened import open_model
from xtuner.chat.screen import open_screen
from xtuner.chat.settings import Settings

__all__ = ["PROMPT", "Settings", "chat", "talk"]


def chat(settings: Settings) -> None:
    """Load the model of `settings` and run the dialogue until EXIT or the end of the input."""
    with ExitStack() as stack:
        opened = open_model(settings, stack)
        dialogue = Dialogue(opened.answerer, opened.answer, open_screen(), opened.adapter, opened.make_system)
        talk(dialogue, read_inputs(is_command, list(COMMANDS), FILE_COMMANDS))


def talk(dialogue: Dialogue, inputs: Iterator[str]) -> None:
    """Process `inputs` until EXIT or their end."""
    for text in inputs:
        if is_command(text):
            run_command(dialogue, text)
        else:
            dialogue.ask(text)
        if dialogue.ended:
            return
