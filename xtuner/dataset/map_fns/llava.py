"""LLaVA: messages of human and gpt; `<image>` in a question is the placeholder of an image of the row."""

from collections.abc import Callable

from xtuner.dataset.map_fns.fields import Row, items, text
from xtuner.dataset.map_fns.wizardlm import pair_human_with_gpt
from xtuner.utils import DEFAULT_IMAGE_TOKEN


def llava_map_fn(example: Row) -> dict:
    """One turn per answer; the placeholders of images move to the front of their question."""
    return _map(example, lambda images, words: f"{images}\n{words}".strip())


def llava_image_only_map_fn(example: Row) -> dict:
    """One turn per answer; a question with images becomes their placeholders alone."""
    return _map(example, lambda images, words: images)


def _map(example: Row, with_images: Callable[[str, str], str]) -> dict:
    messages: list[Row] = []
    for message in items(example, "conversations"):
        words = text(message, "value")
        if text(message, "from") == "human" and DEFAULT_IMAGE_TOKEN in words:
            images = DEFAULT_IMAGE_TOKEN * words.count(DEFAULT_IMAGE_TOKEN)
            words = with_images(images, words.replace(DEFAULT_IMAGE_TOKEN, "").strip())
        messages.append({**message, "value": words})
    return {"conversation": pair_human_with_gpt(messages)}
