"""A dialogue on a screen: its state, and how a question is answered.

Ctrl-C ends an answer, not the dialogue; the part that was generated stays in the history.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from xtuner.chat.answer import Answerer, Show
from xtuner.chat.screen import Screen
from xtuner.chat.session import Session
from xtuner.errors import DataError
from xtuner.generation.generate import Completion
from xtuner.language import translate
from xtuner.log import logger


@dataclass
class Dialogue:
    """Questions and answers: the model, the function `answer`, and the screen.

    `make_system` adds an agent's instructions to a system text.
    """

    answerer: Answerer
    answer: Callable[[str, Show], Completion]
    screen: Screen
    adapter: str | None = None
    make_system: Callable[[str], str] = str
    ended: bool = False

    @property
    def session(self) -> Session:
        """The history."""
        return self.answerer.session

    def ask(self, text: str) -> None:
        """Answer the question `text` on the screen."""
        try:
            with _ctrl_c_cancels(self.answerer):
                completion = self.answer(text, self.screen.show)
        except DataError as e:
            # The dialogue continues after a question that does not fit.
            logger.error("%s", e)
            if self.session.shown:
                logger.warning(translate("its images wait for the next question: /undo removes them"))
            return
        self.screen.end_answer(_stats(completion))
        if completion.finish == "length":
            logger.warning(
                translate("The answer was cut after %d tokens: see --max-new-tokens"), len(completion.ids)
            )


def _stats(completion: Completion) -> str:
    text = translate(
        "{count} tokens, {speed:.1f} tokens/s, the first after {seconds:.2f} s",
        count=len(completion.ids),
        speed=completion.tokens_per_second,
        seconds=completion.first_seconds,
    )
    return text + translate(", stopped") if completion.finish == "cancelled" else text


@contextmanager
def _ctrl_c_cancels(answerer: Answerer) -> Iterator[None]:
    """The first Ctrl-C ends the answer after the current token, the second one the program."""
    if threading.current_thread() is not threading.main_thread() or not sys.stdin.isatty():
        yield
        return
    pressed = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def press(_number: int, _frame: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, press)
    answerer.cancelled = pressed.is_set
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        answerer.cancelled = lambda: False
