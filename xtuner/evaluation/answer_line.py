"""The line of an answer, written when the answer ends: {"index": 3, "prediction": "B", "cut": true}."""

from __future__ import annotations

from collections.abc import Callable

from xtuner.evaluation.run_folder import Line
from xtuner.generation.request import Event, Failed, Piece


class AnswerLine:
    """Collects the text of one answer; `write` gets its line and the number of its tokens at the end.

    With `strip`, the text is without outer spaces.
    """

    def __init__(self, index: int | str, write: Callable[[Line, int], None], *, strip: bool = True) -> None:
        self._index, self._write, self._strip = index, write, strip
        self._pieces: list[str] = []

    def listen(self, event: Event) -> None:
        """Take an event of the engine; raises that of a failure."""
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Piece):
            self._pieces.append(event.text)
            return
        text = "".join(self._pieces)
        line: Line = {"index": self._index, "prediction": text.strip() if self._strip else text}
        # A length that is reached is that of --max-new-tokens or of the context.
        self._write({**line, "cut": True} if event.finish == "length" else line, event.num_tokens)
