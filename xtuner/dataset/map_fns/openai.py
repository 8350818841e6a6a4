"""OpenAI chat messages: `{"messages": [{"role", "content", "loss"?, "tool_calls"?}, ...]}`.

system S, user A, user B, assistant C (loss false), tool T, assistant D
-> {system S, input AB, output C, output_with_loss False}, {input T, output D, output_with_loss True}
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
    messages = items(example, "messages")
    for message in itertools.dropwhile(lambda message: message.get("role") == "assistant", messages):
        role = text(message, "role")
        if role in ("system", "developer"):
            system = _content(message)
        elif role in _ASKING:
            asked += _content(message)
        elif role == "assistant":
            turn = {"system": system, "input": asked, "output": _content(message)}
            conversation.append({**turn, "output_with_loss": _is_trained(message)})
            system = asked = ""
        else:
            known = ", ".join(("system", "developer", *_ASKING, "assistant"))
            raise DataError(f"a message has the role {role!r}; known roles are {known}")
    return {"conversation": conversation}


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
