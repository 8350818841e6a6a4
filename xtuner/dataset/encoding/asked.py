"""What a row of instruction data asks, and the answer that it has.

system S, user A, assistant B, user C, assistant D     messages up to C, reference "D"
{"question": "2 + 2?", "answer": "4"}                  [user "2 + 2?"], reference "4"
{"prompt": "2 + 2?"}                                   [user "2 + 2?"], no reference
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

from xtuner.dataset.encoding.pipeline import MapFn, apply_map_fn
from xtuner.dataset.map_fns.auto import auto_map_fn
from xtuner.dataset.map_fns.openai import openai_map_fn
from xtuner.dataset.map_fns.preferences import DIALOGUES, PROMPTS
from xtuner.dataset.map_fns.sharegpt import messages_of
from xtuner.dataset.map_fns.template import chat_messages_map_fn
from xtuner.errors import DataError
from xtuner.language import translate

Row = Mapping[str, Any]


class Asked(NamedTuple):
    """The messages before the last answer, and that answer, if there is one."""

    messages: list[dict[str, Any]]
    reference: str | None

    @property
    def shown(self) -> str:
        """The texts of the messages."""
        return "\n\n".join(str(message["content"]) for message in self.messages)


def asked_of(row: Row, map_fn: MapFn = auto_map_fn) -> Asked:
    """What `row` asks, of any format, or of that of `map_fn`; DataError if it asks nothing."""
    name = _dialogue(row) if map_fn is auto_map_fn else None
    if name is not None:
        messages = messages_of(row, name)
    else:
        prompting = functools.partial(prompt_map_fn, map_fn=map_fn)
        made = chat_messages_map_fn(apply_map_fn(prompting, row, "dataset_map_fn"))["conversation"]
        messages = list(made[0]["messages"]) if made else []
    reference = None
    if messages and messages[-1]["role"] == "assistant":
        # An empty one is that of a row without an answer.
        reference = str(messages.pop()["content"]) or None
    if not any(message["role"] == "user" for message in messages):
        raise DataError(translate("the row asks nothing"))
    return Asked(messages, reference)


def prompt_map_fn(row: Row, map_fn: MapFn = auto_map_fn) -> dict[str, Any]:
    """The conversation of `row` by `map_fn`; a row of known fields without an answer has an empty one."""
    if map_fn is not auto_map_fn:
        return map_fn(row)
    if (name := _dialogue(row)) is not None:
        messages = messages_of(row, name)
        if messages[-1]["role"] != "assistant":
            return openai_map_fn({**row, "messages": [*messages, {"role": "assistant", "content": ""}]})
    try:
        return auto_map_fn(row)
    except DataError:
        texts = [row[name] for name in PROMPTS if isinstance(row.get(name), str) and row[name]]
        if not texts:
            raise
        return {"conversation": [{"input": "\n".join(texts), "output": ""}]}


def _dialogue(row: Row) -> str | None:
    """The field that holds messages."""
    for name in DIALOGUES:
        first = next(iter(row[name]), None) if isinstance(row.get(name), (list, tuple)) else None
        if isinstance(first, Mapping) and {"role", "from"} & first.keys():
            return name
    return None
