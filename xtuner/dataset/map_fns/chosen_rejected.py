"""Pairs of a better and a worse answer, to learn the better one: `{"prompt"?, "chosen", "rejected"}`.

Each is a text or a list of OpenAI messages; a list may hold the question as well.
"""

from __future__ import annotations

from xtuner.dataset.map_fns.completion import continued
from xtuner.dataset.map_fns.fields import Row, first_present, items, missing_field, present
from xtuner.dataset.map_fns.openai import openai_map_fn

_QUESTIONS = ("prompt", "question", "instruction", "input")


def chosen_rejected_map_fn(example: Row) -> dict:
    """The turns of the conversation that ends with the chosen answer."""
    if example.get("chosen") is None:
        raise missing_field("chosen", present(example))
    chosen = example["chosen"]
    if isinstance(chosen, list) and any(
        message.get("role") == "user" for message in items(example, "chosen")
    ):
        return openai_map_fn({**example, "messages": chosen})
    question = first_present(example, _QUESTIONS)
    if question is None:
        raise missing_field("prompt", example)
    return continued(example, question, "chosen")
