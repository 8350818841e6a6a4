"""LLaVA: messages of human and gpt; `<image>` in a question is the placeholder of the row's image."""

from collections.abc import Callable

from xtuner.dataset.map_fns.fields import Row, items, text
from xtuner.dataset.map_fns.wizardlm import pair_human_with_gpt
from xtuner.utils import DEFAULT_IMAGE_TOKEN


def llava_map_fn(example: Row) -> dict:
    """One turn per answer; the image's placeholder moves to the front of its question."""
    return _map(example, lambda words: f"{DEFAULT_IMAGE_TOKEN}\n{words}".strip())


def llava_image_only_map_fn(example: Row) -> dict:
    """One turn per answer; a question with an image becomes the placeholder alone."""
    return _map(example, lambda words: DEFAULT_IMAGE_TOKEN)


def _map(example: Row, with_image: Callable[[str], str]) -> dict:
    messages: list[Row] = []
    for message in items(example, "conversations"):
        words = text(message, "value")
        if text(message, "from") == "human" and DEFAULT_IMAGE_TOKEN in words:
            words = with_image(words.replace(DEFAULT_IMAGE_TOKEN, "").strip())
        messages.append({**message, "value": words})
    return {"conversation": pair_human_with_gpt(messages)}
