"""A prompt and its completion: `{"prompt", "completion"}`, each a text or a list of OpenAI messages."""

from __future__ import annotations

from typing import Any

from xtuner.dataset.map_fns.fields import Row, items, one_turn, text, text_or_empty
from xtuner.dataset.map_fns.openai import openai_map_fn


def completion_map_fn(example: Row) -> dict:
    """One turn; with messages one per answer, of which those in the prompt are not supervised."""
    return continued(example, "prompt", "completion")


def continued(example: Row, prompt: str, completion: str) -> dict:
    """The conversation of the fields `prompt` and `completion`."""
    asked, answer = example.get(prompt), example.get(completion)
    if not isinstance(asked, list) and not isinstance(answer, list):
        system = text(example, "system") if example.get("system") else None
        return one_turn(text_or_empty(example, prompt), text(example, completion), system)
    before = _messages(example, prompt, "user") if asked else []
    after = _messages(example, completion, "assistant")
    unsupervised = [{**m, "loss": False} if m.get("role") == "assistant" else m for m in before]
    return openai_map_fn({**example, "messages": [*unsupervised, *after]})


def _messages(example: Row, field: str, role: str) -> list[Any]:
    if isinstance(example[field], str):
        return [{"role": role, "content": example[field]}]
    return items(example, field)
