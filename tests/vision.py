"""Tiny folders of vision-language models with their processors, by family."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
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
    settings: Mapping[str, Any] = MappingProxyType({})  # of the processor
    model: Mapping[str, Any] = MappingProxyType({})  # fields of the config


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
    dict(
        zip(
            ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"),
            QWEN_TOKENS,
            strict=True,
        )
    ),
)
KINDS: dict[str, Kind] = {
    "qwen2_5_vl": QWEN,
    "qwen2_vl": QWEN,
    "qwen3_vl": QWEN,
    "glm4v": Kind(
        lambda: transformers.Glm4vImageProcessorPil(
            size={"shortest_edge": 2 * 28 * 28, "longest_edge": 28 * 28 * 12}
        ),
        ("<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>"),
        "<|begin_of_image|><|image|><|end_of_image|>",
        {},
        {
            "image_token_id": "<|image|>",
            "video_token_id": "<|video|>",
            "image_start_token_id": "<|begin_of_image|>",
            "image_end_token_id": "<|end_of_image|>",
        },
    ),
    "gemma3": Kind(
        lambda: transformers.Gemma3ImageProcessorPil(size={"height": 28, "width": 28}),
        ("<image_soft_token>", "<start_of_image>", "<end_of_image>"),
        "<start_of_image>",
        {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
        {
            "image_token_id": "<image_soft_token>",
            "boi_token_id": "<start_of_image>",
            "eoi_token_id": "<end_of_image>",
        },
        {"image_seq_length": 4},
    ),
    "llava_next": Kind(
        lambda: transformers.LlavaNextImageProcessorPil(
            size={"shortest_edge": 28},
            crop_size={"height": 28, "width": 28},
            image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
        ),
        ("<image>",),
        "<image>",
        {},
        {"image_token_id": "<image>"},
        {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
        {"image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]]},
    ),
    "llava_onevision": Kind(
        lambda: transformers.LlavaOnevisionImageProcessorPil(
            size={"height": 28, "width": 28},
            image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
        ),
        ("<image>", "<video>"),
        "<image>",
        {},
        {"image_token_id": "<image>", "video_token_id": "<video>"},
        {
            "num_image_tokens": 4,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_9",
        },
        {"image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]]},
    ),
    "internvl": Kind(
        lambda: transformers.GotOcr2ImageProcessorPil(
            size={"height": 28, "width": 28},
            crop_to_patches=True,
            min_patches=1,
            max_patches=3,
        ),
        ("<IMG_CONTEXT>", "<img>", "</img>", "<video>"),
        "<IMG_CONTEXT>",
        {
            "context_image_token": "<IMG_CONTEXT>",
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "video_token": "<video>",
        },
        {"image_token_id": "<IMG_CONTEXT>"},
        {"image_seq_length": 1},
    ),
    "idefics3": Kind(
        lambda: transformers.Idefics3ImageProcessorPil(
            size={"longest_edge": 56},
            max_image_size={"longest_edge": 28},
        ),
        ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"),
        "<image>",
        {},
        {"image_token_id": "<image>"},
        {"image_seq_len": 1},
    ),
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
    # Images must be in the window of the answers.
    more = {"vocab_size": -(-len(tokenizer) // 64) * 64}
    if "sliding_window" in text:
        more["sliding_window"] = 512
    seeing.FAMILIES[family] = ({**text, **more}, vision, {**whole, **ids, **kind.model})
    try:
        seeing.make(family).save_pretrained(folder)
    finally:
        seeing.FAMILIES[family] = seeing_before
    if kind.names:
        tokenizer._set_model_specific_special_tokens(special_tokens=kind.names)
    tokenizer.save_pretrained(folder)
    kind.image_processor().save_pretrained(folder)
    if kind.settings:
        (folder / "processor_config.json").write_text(json.dumps(dict(kind.settings)))
    return folder


def picture_files(folder: Path) -> None:
    """Images of three shapes."""
    picture_file(folder / "a.png")
    picture_file(folder / "b.jpg", (20, 60, 200), (48, 100))
    picture_file(folder / "c.png", (20, 200, 60), (120, 60))
