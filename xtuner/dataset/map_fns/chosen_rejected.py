"""Pairs of a better and a worse answer, to learn the better one: `{"prompt"?, "chosen", "rejected"}`.

Each is a text or a list of OpenAI messages; a list may hold the question as well.
"""

from __future__ import annotations

from xtuner.dataset.map_fns.completion import continued
from xtuner.dataset.map_fns.fields import Row, items, missing_field
from xtuner.dataset.map_fns.openai import openai_map_fn

_QUESTIONS = ("prompt", "question", "instruction", "input")


def chosen_rejected_map_fn(example: Row) -> dict:
    """The turns of the conversation that ends with the chosen answer."""
    if example.get("chosen") is None:
        raise missing_field("chosen", (name for name in example if example[name] is not None))
    chosen = example["chosen"]
    if isinstance(chosen, list) and any(
        message.get("role") == "user" for message in items(example, "chosen")
    ):
        return openai_map_fn({**example, "messages": chosen})
    question = next((name for name in _QUESTIONS if example.get(name) is not None), None)
    if question is None:
        raise missing_field("prompt", example)
    return continued(example, question, "chosen")
