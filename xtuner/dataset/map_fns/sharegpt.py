"""ShareGPT dialogues: `{"conversations": [{"from", "value"}, ...], "system"?, "tools"?}`.

human Q, function_call {"name", "arguments"}, observation R, gpt A
-> {input Q, output the call}, {input R, output A}
"""

from __future__ import annotations

import json
from typing import Any

from xtuner.dataset.map_fns.fields import Row, items, missing_field, text, text_or_empty
from xtuner.dataset.map_fns.openai import chat_message, openai_map_fn
from xtuner.errors import DataError, did_you_mean
from xtuner.language import translate

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
    "function_response": "tool",
    "function_call": "call",
    "tool_call": "call",
}


def sharegpt_map_fn(example: Row) -> dict:
    """One turn per answer, as for OpenAI messages; the keys may also be `role` and `content`."""
    messages = [openai_message(message) for message in items(example, "conversations")]
    return openai_map_fn({**example, "messages": messages})


def messages_of(example: Row, field: str) -> list[dict[str, Any]]:
    """The messages in a field, of OpenAI's form or of ShareGPT's, as the chat template takes them."""
    return [chat_message(openai_message(message)) for message in items(example, field)]


def openai_message(message: Row) -> dict[str, Any]:
    speaker_key = "from" if "from" in message else "role"
    words_key = "value" if "value" in message else "content"
    if speaker_key not in message:
        raise missing_field("from", message)
    speaker = text(message, speaker_key)
    if speaker not in _ROLES:
        raise DataError(
            translate(
                "a message is from {speaker!r}; known are {names}.{hint}",
                speaker=speaker,
                names=", ".join(_ROLES),
                hint=did_you_mean(speaker, _ROLES),
            )
        )
    words = text_or_empty(message, words_key)
    role = _ROLES[speaker]
    rest = {key: value for key, value in message.items() if key not in (speaker_key, words_key)}
    if role == "call":
        return {**rest, "role": "assistant", "content": None, "tool_calls": _calls(words)}
    return {**rest, "role": role, "content": words}


def _calls(words: str) -> list[dict[str, Any]]:
    """The calls written as JSON: one object, or a list of them."""
    try:
        written = json.loads(words)
    except ValueError as error:
        raise DataError(
            translate("a function_call is not JSON: {error}: {words!r:.80}", error=error, words=words)
        ) from None
    calls = written if isinstance(written, list) else [written]
    for call in calls:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            raise DataError(translate("a function_call needs a name: {call!r:.80}", call=call))
    return [
        {"type": "function", "function": {"name": call["name"], "arguments": call.get("arguments", {})}}
        for call in calls
    ]
