"""The forms of a conversation that chat templates accept.

    arguments of a call     {"city": "P"}               '{"city": "P"}'
    thinking                reasoning_content            thinking, reasoning
    system texts            system S, system T, user     system "S\n\nT", user
    questions in a row      user A, user B               user "A\n\nB"
    no system text          system S, user Q             user "S\n\nQ"

A conversation is not changed if the template accepts it and writes all of it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xtuner.dataset.encoding.outline import REASONING, Message
from xtuner.dataset.map_fns.fields import BETWEEN
from xtuner.errors import DataError
from xtuner.language import translate

Messages = list[dict[str, Any]]


def prepared(messages: Sequence[Message]) -> Messages:
    """The messages in the form that most chat templates expect: arguments of calls as objects."""
    changed_messages = []
    for message in messages:
        changed = {name: value for name, value in message.items() if value is not None or name == "content"}
        if changed.get("content") is None:
            changed["content"] = ""
        if changed.get("tool_calls"):
            changed["tool_calls"] = [_with_object(call) for call in changed["tool_calls"]]
        changed_messages.append(changed)
    return changed_messages


def _with_object(call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or "name" not in function:
        raise DataError(translate("a tool call needs function.name: {call!r:.80}", call=call))
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments)
        except ValueError:
            parsed = None
        arguments = parsed if isinstance(parsed, dict) else arguments
    return {**call, "function": {**function, "arguments": {} if arguments is None else arguments}}


def bare(messages: Sequence[Message]) -> Messages:
    """The messages without the field `loss`."""
    return [{name: value for name, value in message.items() if name != "loss"} for message in messages]


@dataclass(frozen=True)
class Form:
    """Another form of a conversation: `change` returns None if it changes nothing."""

    name: str
    change: Callable[[Messages], Messages | None]
    says: str = ""


def some_of(forms: Sequence[Form]) -> Iterator[tuple[Form, ...]]:
    """All combinations of the forms, the smallest first."""
    for count in range(len(forms) + 1):
        yield from itertools.combinations(forms, count)


def in_form(messages: Messages, forms: Sequence[Form]) -> Messages:
    for form in forms:
        messages = form.change(messages) or messages
    return messages


def _arguments_as_text(messages: Messages) -> Messages | None:
    def changed(call: dict[str, Any]) -> dict[str, Any]:
        arguments = call["function"]["arguments"]
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        return {**call, "function": {**call["function"], "arguments": text}}

    if not any(message.get("tool_calls") for message in messages):
        return None
    return [
        {**m, "tool_calls": [changed(call) for call in m["tool_calls"]]} if m.get("tool_calls") else m
        for m in messages
    ]


def _no_content(messages: Messages) -> Messages | None:
    if not any(message.get("tool_calls") and not message["content"] for message in messages):
        return None
    return [
        {**m, "content": (m["content"] or None) if m.get("tool_calls") else m["content"]} for m in messages
    ]


def _thinking_by_all_names(messages: Messages) -> Messages | None:
    """Templates use different names for the thinking of an answer."""
    changed, has_thinking = [], False
    for message in messages:
        thought = next((message[key] for key in REASONING if message.get(key)), None)
        has_thinking |= thought is not None
        changed.append(message if thought is None else {**message, **dict.fromkeys(REASONING, thought)})
    return changed if has_thinking else None


def _one_system_text(messages: Messages) -> Messages | None:
    texts = [message["content"] for message in messages if message.get("role") == "system"]
    if not texts or (len(texts) == 1 and messages[0].get("role") == "system"):
        return None
    others = [message for message in messages if message.get("role") != "system"]
    return [{"role": "system", "content": BETWEEN.join(texts)}, *others]


def _speakers_in_turn(messages: Messages) -> Messages | None:
    joined: Messages = []
    for message in messages:
        last = joined[-1] if joined else {}
        plain = message.keys() == last.keys() and message.keys() <= {"role", "content", "loss"}
        if plain and message["role"] == last["role"] and message.get("loss") == last.get("loss"):
            joined[-1] = {**last, "content": last["content"] + BETWEEN + message["content"]}
        else:
            joined.append(message)
    return joined if len(joined) < len(messages) else None


def _system_in_question(messages: Messages) -> Messages | None:
    if [message.get("role") for message in messages[:2]] != ["system", "user"]:
        return None
    system, question, *rest = messages
    merged = system["content"].rstrip("\n") + BETWEEN + question["content"]
    return [{**question, "content": merged}, *rest]


FORMS = (
    Form("arguments as text", _arguments_as_text),
    Form("no content beside calls", _no_content),
    Form("thinking by all names", _thinking_by_all_names),
    Form(
        "one system text",
        _one_system_text,
        "the tokenizer's chat template takes one system text: all of a dialogue are put at its head",
    ),
    Form(
        "speakers in turn",
        _speakers_in_turn,
        "the tokenizer's chat template takes speakers in turn: messages of one in a row are joined",
    ),
    Form(
        "system in question",
        _system_in_question,
        "the tokenizer's chat template takes no system text: it is put at the head of the first question",
    ),
)
