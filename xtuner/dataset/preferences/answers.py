"""A prompt with its answers, as the map functions of map_fns/preferences.py return them.

    {"prompt": [messages], "chosen": [messages], "rejected": [messages]}     scores 1, 0
    {"prompt": ..., "answers": [[messages], ...], "scores": [2, 0, 1]}
    {"prompt": ..., "answers": [[messages], ...], "labels": [true, false]}   scores 1, 0

-> dialogues, one for each answer, in which `loss` is false for what is not to be supervised
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xtuner.dataset.map_fns.fields import first_present, items, missing_field, present
from xtuner.dataset.map_fns.openai import chat_message, tools_of
from xtuner.dataset.map_fns.preferences import SIDES
from xtuner.errors import DataError
from xtuner.language import translate

Row = Mapping[str, Any]
Message = dict[str, Any]

LOSS_ON = ("answer", "last", "all")
"""Supervised are the messages of an answer, the last one of them, or those of the prompt as well."""


@dataclass(frozen=True)
class Compared:
    """A prompt, its answers and their scores; `is_labelled` where a score is 1 for good and 0 for bad."""

    prompt: list[Message]
    answers: list[list[Message]]
    scores: list[float]
    is_labelled: bool
    tools: list[Any]

    def dialogue(self, number: int, loss_on: str, prompt: list[Message] | None = None) -> Row:
        """The turn of a conversation: the prompt (or another one) with answer `number`."""
        asked = self.prompt if prompt is None else prompt
        answer = self.answers[number]
        if loss_on != "all":
            asked = [_untrained(message) for message in asked]
        if loss_on == "last":
            answer = [*(_untrained(message) for message in answer[:-1]), answer[-1]]
        turn: dict[str, Any] = {"messages": [*asked, *answer]}
        return {**turn, "tools": self.tools} if self.tools else turn


def read_compared(row: Row) -> Compared:
    """The prompt and answers of a mapped row; DataError where one of them is missing or has another form."""
    prompt = [chat_message(message) for message in items(row, "prompt")]
    if row.get("answers") is None:
        for name in SIDES:
            if row.get(name) is None:
                raise missing_field(name, present(row))
        answers = [_answer(row, name) for name in SIDES]
        return Compared(prompt, answers, [1.0, 0.0], True, tools_of(row))
    kind = first_present(row, ("scores", "labels"))
    if kind is None:
        raise missing_field("scores", present(row))
    values, answers = row[kind], _answers(row)
    if len(values) != len(answers):
        what = "the row has {answers} answers and {count} values in {name!r}"
        raise DataError(translate(what, answers=len(answers), count=len(values), name=kind))
    return Compared(prompt, answers, [float(value) for value in values], kind == "labels", tools_of(row))


def _answers(row: Row) -> list[list[Message]]:
    value = row["answers"]
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        what = "the field 'answers' must be a list of answers, each a list of messages: {value!r:.80}"
        raise DataError(translate(what, value=value))
    return [_answer({f"answers[{n}]": answer}, f"answers[{n}]") for n, answer in enumerate(value)]


def _answer(row: Row, name: str) -> list[Message]:
    found = [chat_message(message) for message in items(row, name)]
    if not found:
        raise DataError(translate("{name} has no message: it must hold an answer", name=name))
    if found[-1]["role"] != "assistant":
        what = "{name} ends with a message of {role!r}: an answer ends with one of 'assistant'"
        raise DataError(translate(what, name=name, role=found[-1]["role"]))
    return found


def _untrained(message: Message) -> Message:
    return {**message, "loss": False}
