"""Tool calls in the text of an answer, found while it streams.

    "Let me see. <tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>"
    ->  "Let me see. "   Call("add", '{"a": 1}')

A family writes its calls between marks (MARKS), or as a bare JSON object that is the whole answer. Text that
looks like a call but is not one remains text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from xtuner.chat.server.json_text import read_json
from xtuner.generation.text_stream import possible_beginning

MARKS = {
    "<tool_call>": "</tool_call>",  # Hermes, Qwen
    "<|action_start|><|plugin|>": "<|action_end|>",  # InternLM2
    "<|python_tag|>": "<|eom_id|>",  # Llama 3
    "[TOOL_CALLS]": "</s>",  # Mistral
}


@dataclass(frozen=True)
class Call:
    """A call of the function `name`; `arguments` is the text of a JSON object."""

    name: str
    arguments: str


class CallFinder:
    """Separates text and calls in a streamed answer."""

    def __init__(self) -> None:
        self._held = ""
        self._begun = False

    def push(self, piece: str) -> Iterator[str | Call]:
        """The text and calls that `piece` completes."""
        self._held += piece
        yield from self._parse(at_end=False)

    def finish(self) -> Iterator[str | Call]:
        """The remaining text and calls at the end of the answer."""
        yield from self._parse(at_end=True)

    def _parse(self, at_end: bool) -> Iterator[str | Call]:
        while self._held:
            if not self._begun:
                if not self._held.strip() and not at_end:
                    return
                if self._held.lstrip().startswith("{"):
                    if at_end:
                        yield from _calls_or_text(self._held, self._held)
                        self._held = ""
                    return
            self._begun = True
            found = [(at, mark) for mark in MARKS if (at := self._held.find(mark)) >= 0]
            if not found:
                keep = 0 if at_end else possible_beginning(self._held, [*MARKS])
                text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
                if text:
                    yield text
                return
            at, mark = min(found)
            if at:
                yield self._held[:at]
                self._held = self._held[at:]
            inner, end, rest = self._held[len(mark) :].partition(MARKS[mark])
            if not end and not at_end:
                return
            yield from _calls_or_text(inner, mark + inner + end)
            self._held = rest


def _calls_or_text(inner: str, whole: str) -> list[str | Call]:
    try:
        value = read_json(inner)
    except ValueError:
        return [whole]
    calls = [_call(item) for item in (value if isinstance(value, list) else [value])]
    found: list[str | Call] = [call for call in calls if call is not None]
    return found if found and len(found) == len(calls) else [whole]


def _call(value: Any) -> Call | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = read_json(arguments)
        except ValueError:
            return None
    if not isinstance(arguments, dict):
        return None
    return Call(value["name"], json.dumps(arguments, ensure_ascii=False))
