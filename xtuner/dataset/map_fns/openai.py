"""OpenAI chat messages: `{"messages": [{"role", "content", "loss"?, "tool_calls"?}, ...]}`.

system S, user A, user B, assistant C (loss false), tool T, assistant D
-> {system S, input "A\\n\\nB", output C, output_with_loss False}, {input T, output D, output_with_loss True}

A turn whose messages contain more than its texts (tools, thinking, consecutive questions) also has its
`messages`, and the first turn the `tools` of the row, for the tokenizer's chat template (prompt_template =
'auto').
"""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import dataclass, field
from typing import Any

from xtuner.dataset.map_fns.fields import ALL_FLAGS, BETWEEN, Row, is_trained, items, text
from xtuner.errors import DataError
from xtuner.language import translate
from xtuner.log import say_once

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "tool": "tool",
    "function": "tool",
    "assistant": "assistant",
}
"""Roles of messages -> roles in conversations."""
REASONING = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message with the model's thinking."""


def openai_map_fn(example: Row) -> dict:
    """One turn for each answer, or for consecutive answers; its input is all since the answer before.

    A system text is part of the next turn only. The result of a tool is input like a user's words, and the
    calls of an assistant follow its words as JSON. Answers that open the conversation are in no turn: only
    the tokenizer's chat template writes them.
    """
    messages = [chat_message(message) for message in items(example, "messages")]
    if example.get("system"):
        messages.insert(0, {"role": "system", "content": text(example, "system")})
    conversation = [exchange.turn() for exchange in _exchanges(messages)]
    tools = tools_of(example)
    if conversation and tools:
        conversation[0]["tools"] = tools
    return {"conversation": conversation}


@dataclass
class _Exchange:
    """Messages that ask, their answers, and both together in order."""

    asking: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    whole: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_asked(self) -> bool:
        return any(message["role"] != "system" for message in self.asking)

    def turn(self) -> dict[str, Any]:
        """The turn of a conversation."""
        system = [message["content"] for message in self.asking if message["role"] == "system"]
        asked = [_with_calls(message) for message in self.asking if message["role"] != "system"]
        turn = {
            "system": BETWEEN.join(filter(None, system)),
            "input": BETWEEN.join(filter(None, asked)),
            "output": BETWEEN.join(filter(None, map(_with_calls, self.answers))),
            "output_with_loss": any(message.get("loss", True) for message in self.answers),
        }
        roles = [message["role"] for message in self.whole]
        is_plain = roles in (["user", "assistant"], ["system", "user", "assistant"])
        if is_plain and all(message.keys() <= {"role", "content", "loss"} for message in self.whole):
            return turn
        return {**turn, "messages": self.whole}


def _exchanges(messages: list[dict[str, Any]]) -> list[_Exchange]:
    """The messages split before each question that follows an answer; unanswered ones are left out."""
    exchanges = [_Exchange()]
    for message in messages:
        is_answer = message["role"] == "assistant"
        if not is_answer and exchanges[-1].answers:
            exchanges.append(_Exchange())
        (exchanges[-1].answers if is_answer else exchanges[-1].asking).append(message)
        exchanges[-1].whole.append(message)
    if not exchanges[-1].answers:
        exchanges.pop()
        say_once("conversations end with an unanswered question: it is left out", logging.INFO)
    if not exchanges or exchanges[0].is_asked or (len(exchanges) == 1 and exchanges[0].asking):
        return exchanges
    say_once(
        "conversations begin with words of the assistant: only the tokenizer's own chat template "
        "(prompt_template = 'auto') keeps them",
        logging.INFO,
    )
    opening, *others = exchanges
    if others:
        others[0].asking[:0] = opening.asking
        others[0].whole[:0] = opening.whole
    return others


def chat_message(message: Row) -> dict[str, Any]:
    """The message for a chat template: a known role, content as text, `loss` false if unsupervised."""
    name = text(message, "role")
    if name not in ROLES:
        raise DataError(
            translate(
                "a message has the role {name!r}; known roles are {roles}", name=name, roles=", ".join(ROLES)
            )
        )
    role = ROLES[name]
    found = {key: value for key, value in message.items() if value is not None and key not in ALL_FLAGS}
    if call := found.pop("function_call", None):  # the older form of one call
        found["tool_calls"] = [{"type": "function", "function": call}]
    if not found.get("tool_calls"):
        found.pop("tool_calls", None)
    thought = any(found.get(key) for key in REASONING)
    if found.get("content") is None and not found.get("tool_calls") and not thought:
        text(message, "content")
    found |= {"role": role, "content": _content(message)}
    if role == "assistant" and not is_trained(message):
        found["loss"] = False
    return found


def _content(message: Row) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(_text_part(part) for part in content)
    return "" if content is None else text({"content": content}, "content")


def _text_part(part: Any) -> str:
    if isinstance(part, dict) and part.get("type") in ("text", "input_text", "output_text"):
        return text(part, "text")
    raise DataError(translate("a message's content has a part that is not text: {part!r:.80}", part=part))


def tools_of(example: Row) -> list[Any]:
    """The tools of the row, which are a list or its JSON text."""
    name = "tools" if example.get("tools") else "functions"
    tools = example.get(name)
    if isinstance(tools, str):
        try:
            tools = json.loads(tools) if tools.strip() else None
        except ValueError as error:
            raise DataError(
                translate("the field {name!r} is text, but not JSON: {error}", name=name, error=error)
            ) from None
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise DataError(
            translate(
                "the field {name!r} must be a list of objects; it is {tools!r:.80}", name=name, tools=tools
            )
        )
    if tools and name == "functions":
        return [{"type": "function", "function": function} for function in tools]
    return tools or []


def _with_calls(message: Row) -> str:
    """A message as plain text: its thinking in tags, its words, its calls as JSON."""
    thought = next((str(message[key]) for key in REASONING if message.get(key)), "")
    if thought:
        say_once("thinking is written as <think>...</think> before an answer", logging.INFO)
    calls = [json.dumps(_call(call), ensure_ascii=False) for call in message.get("tool_calls", ())]
    words = "\n".join(filter(None, [message["content"], *calls]))
    return f"<think>\n{thought}\n</think>\n\n{words}" if thought else words


def _call(call: Any) -> dict[str, Any]:
    """Name and arguments of a tool call; arguments in JSON text become an object."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or "name" not in function:
        raise DataError(translate("a tool call needs function.name: {call!r:.80}", call=call))
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        # A model wrote it, so it may not be JSON; then the text itself is learnt.
        with contextlib.suppress(ValueError):
            arguments = json.loads(arguments)
    return {"name": function["name"], "arguments": arguments}
