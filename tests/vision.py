"""Tiny folders of vision-language models with their processors, by family."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import transformers

from tests import seeing
from tests.llava import picture_file

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Kind(NamedTuple):
    """What the folder of a family has besides the tiny model of tests/seeing.py."""

    image_processor: Callable[[], Any]
    tokens: tuple[str, ...]  # the first is that of an image
    written: str  # by the chat template for an image
    names: dict[str, str]  # attributes of the tokenizer -> tokens
    config: dict[str, str]  # fields of the config -> tokens
    settings: dict[str, Any] = {}  # of the processor
    model: dict[str, Any] = {}  # fields of the config


def _qwen(**settings: Any) -> Callable[[], Any]:
    return lambda: transformers.Qwen2VLImageProcessorPil(
        size={"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 6}, **settings
    )


QWEN_TOKENS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
QWEN = Kind(
    _qwen(),
    QWEN_TOKENS,
    "<|vision_start|><|image_pad|><|vision_end|>",
    {},
    {"image_token_id": QWEN_TOKENS[0], "video_token_id": QWEN_TOKENS[1], "vision_start_token_id": QWEN_TOKENS[2],
     "vision_end_token_id": QWEN_TOKENS[3]},
)  # fmt: skip
KINDS: dict[str, Kind] = {
    "qwen2_5_vl": QWEN,
}


def save(family: str, folder: Path, tokenizer: Any) -> Path:
    """A folder with a tiny random model of the family, its tokenizer, and its processor."""
    kind = KINDS[family]
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": list(kind.tokens)})
    tokenizer.chat_template = TEMPLATE.replace("IMAGE", kind.written)
    text, vision, whole = seeing.FAMILIES[family]
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in kind.config.items()}
    seeing_before = seeing.FAMILIES[family]
    vocabulary = {"vocab_size": -(-len(tokenizer) // 64) * 64}
    seeing.FAMILIES[family] = ({**text, **vocabulary}, vision, {**whole, **ids, **kind.model})
    try:
        seeing.make(family).save_pretrained(folder)
    finally:
        seeing.FAMILIES[family] = seeing_before
    if kind.names:
        tokenizer._set_model_specific_special_tokens(special_tokens=kind.names)
    tokenizer.save_pretrained(folder)
    kind.image_processor().save_pretrained(folder)
    if kind.settings:
        import json

        (folder / "processor_config.json").write_text(json.dumps(kind.settings))
    return folder


def picture_files(folder: Path) -> None:
    """Images of three shapes."""
    picture_file(folder / "a.png")
    picture_file(folder / "b.jpg", (20, 60, 200), (48, 100))
    picture_file(folder / "c.png", (20, 200, 60), (120, 60))
