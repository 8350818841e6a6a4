"""OpenAI chat messages: `{"messages": [{"role", "content", "loss"?, "tool_calls"?}, ...]}`.

system S, user A, user B, assistant C (loss false), tool T, assistant D
-> {system S, input AB, output C, output_with_loss False}, {input T, output D, output_with_loss True}

A turn with tools or thinking also holds its `messages` as they are, and the first turn the `tools` that the
row offers: the tokenizer's own chat template (prompt_template = 'auto') shows them as the model knows them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import Any

from xtuner.dataset.map_fns.fields import Row, items, text
from xtuner.errors import DataError

_ASKING = ("user", "tool", "function")


def openai_map_fn(example: Row) -> dict:
    """One turn per assistant message; what came since the last one is its input.

    A system text goes with the next turn only. What a tool returned is input like a user's words, and the
    calls an assistant makes follow its words as JSON. Assistant messages that open the list are left out.
    """
    conversation = []
    system = asked = ""
    whole: list[dict[str, Any]] = []
    messages = items(example, "messages")
    for message in itertools.dropwhile(lambda message: message.get("role") == "assistant", messages):
        role = text(message, "role")
        whole.append(_as_chat_message(message))
        if role in ("system", "developer"):
            system = _content(message)
        elif role in _ASKING:
            asked += _content(message)
        elif role == "assistant":
            turn = {"system": system, "input": asked, "output": _content(message)}
            kept = {} if _is_plain(whole) else {"messages": whole}
            conversation.append({**turn, "output_with_loss": _is_trained(message), **kept})
            system = asked = ""
            whole = []
        else:
            known = ", ".join(("system", "developer", *_ASKING, "assistant"))
            raise DataError(f"a message has the role {role!r}; known roles are {known}")
    tools = _tools(example)
    if conversation and tools:
        conversation[0]["tools"] = tools
    return {"conversation": conversation}


def _is_plain(messages: list[dict[str, Any]]) -> bool:
    """Whether role and content say all."""
    return all(
        message.keys() <= {"role", "content"} and message["role"] in ("system", "user", "assistant")
        for message in messages
    )


def _as_chat_message(message: Row) -> dict[str, Any]:
    """The message for a chat template: content as text, fields without a value left out."""
    kept = {name: value for name, value in message.items() if value is not None and name != "loss"}
    if not kept.get("tool_calls"):
        kept.pop("tool_calls", None)
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_text_part(part) for part in content)
    return {**kept, "content": "" if content is None else text({"content": content}, "content")}


def _tools(example: Row) -> list[Any]:
    """The tools that the row offers, as a list or as its JSON text."""
    tools = example.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools) if tools.strip() else None
        except ValueError as error:
            raise DataError(f"the field 'tools' is text, but no JSON: {error}") from None
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise DataError(f"the field 'tools' must be a list of objects, and is {tools!r:.80}")
    return tools or []


def _is_trained(message: Row) -> bool:
    """Whether the answer is trained: yes unless its `loss` says no, as a bool or as text."""
    loss = message.get("loss")
    return loss is None or str(loss).strip().lower() == "true"


def _content(message: Row) -> str:
    content = message.get("content")
    calls = message.get("tool_calls") or []
    if content is None and not calls:
        return text(message, "content")
    if isinstance(content, list):
        content = "".join(_text_part(part) for part in content)
    words = "" if content is None else text({"content": content}, "content")
    return "\n".join(filter(None, [words, *(json.dumps(_call(call), ensure_ascii=False) for call in calls)]))


def _text_part(part: Any) -> str:
    if isinstance(part, dict) and part.get("type") == "text":
        return text(part, "text")
    raise DataError(f"a message's content has a part that is not text: {part!r:.80}")


def _call(call: Any) -> dict[str, Any]:
    """Name and arguments of a tool call, with arguments as an object where they came as JSON text."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or "name" not in function:
        raise DataError(f"a tool call needs function.name: {call!r:.80}")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        # A model wrote it, so it may be no JSON; then the text as it stands is what to learn from.
        with contextlib.suppress(ValueError):
            arguments = json.loads(arguments)
    return {"name": function["name"], "arguments": arguments}
