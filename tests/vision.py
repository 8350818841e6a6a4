"""Tiny folders of vision-language models with their processors, by family."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
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
    config: Mapping[str, str | Sequence[str]]  # fields of the config -> tokens
    settings: Mapping[str, Any] = MappingProxyType({})  # of the processor
    model: Mapping[str, Any] = MappingProxyType({})  # fields of the config
    text: Mapping[str, Any] = MappingProxyType({})  # fields of the config of the language part
    vision: Mapping[str, Any] = MappingProxyType({})  # fields of the config of the encoder
    family: str = ""  # if it is not the name of the kind
    needs: str = ""  # a package that transformers' processor needs


QWEN3_5: dict[str, Any] = {
    "layer_types": ["linear_attention", "full_attention"], "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "head_dim": 16,
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1],
    },
}  # fmt: skip
GLM_MOE = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1,
    "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1, "rope_parameters": seeing.PARTIAL,
}  # fmt: skip
# As of tests/seeing.py.
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "deepseek_vl": ({"model_type": "llama"}, {"model_type": "siglip_vision_model"}, {}),
    "gemma4": (
        {
            "sliding_window": 4, "global_head_dim": 8, "hidden_size_per_layer_input": 8,
            "use_bidirectional_attention": "vision", "vocab_size_per_layer_input": 512,
        },
        {"pooling_kernel_size": 2, "head_dim": 8, "num_key_value_heads": 4, "position_embedding_size": 64},
        {"audio_config": None},
    ),
    "glm46v": (
        {"model_type": "glm4v_text", "rope_parameters": seeing.PARTIAL}, {"model_type": "glm4v_vision"}, {},
    ),
    "glm4v_moe": (GLM_MOE, {}, {}),
    "minicpm_ocr": (QWEN3_5, {"image_size": 56}, {"insert_layer_id": 0}),
    "minicpmv4_6": (QWEN3_5, {"image_size": 56}, {"insert_layer_id": 0}),
    "minicpmv4_7": (QWEN3_5, {"image_size": 56}, {"insert_layer_id": 0}),
    "ovis2": ({"model_type": "qwen2"}, {"vocab_size": 64}, {"hidden_size": 32}),
    "qwen3_5": (QWEN3_5, {"num_position_embeddings": 16}, {}),
    "qwen3_5_moe": (
        {**QWEN3_5, **seeing.MOE, "shared_expert_intermediate_size": 16}, {"num_position_embeddings": 16}, {},
    ),
}  # fmt: skip


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
GLM = Kind(
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
)
PIXTRAL = Kind(
    lambda: transformers.PixtralImageProcessorPil(
        size={"longest_edge": 84}, patch_size={"height": 14, "width": 14}
    ),
    ("[IMG]", "[IMG_BREAK]", "[IMG_END]"),
    "[IMG]",
    {},
    {"image_token_id": "[IMG]"},
    {"patch_size": 14, "spatial_merge_size": 2},
    needs="torchvision",
)
IDEFICS = Kind(
    lambda: transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": 56},
        max_image_size={"longest_edge": 28},
    ),
    ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"),
    "<image>",
    {},
    {"image_token_id": "<image>"},
    {"image_seq_len": 1},
)
OVIS_AROUND = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
MINICPM = Kind(
    lambda: transformers.MiniCPMV4_6ImageProcessorPil(scale_resolution=56, max_slice_nums=4),
    (
        "<|image|>", "<|video|>", "<image>", "</image>", "<slice>", "</slice>", "<image_id>", "</image_id>",
    ),
    "<|image|>",
    {
        "image_token": "<|image|>",
        "video_token": "<|video|>",
        "image_start_token": "<image>",
        "image_end_token": "</image>",
        "slice_start_token": "<slice>",
        "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>",
        "image_id_end_token": "</image_id>",
    },
    {"image_token_id": "<|image|>", "video_token_id": "<|video|>"},
)  # fmt: skip
CANVAS = MINICPM._replace(
    config={
        **MINICPM.config,
        "image_start_id": "<image>",
        "image_end_id": "</image>",
        "slice_start_id": "<slice>",
        "slice_end_id": "</slice>",
        "newline_id": "\n",
    }
)
KINDS: dict[str, Kind] = {
    "qwen2_5_vl": QWEN,
    "qwen2_vl": QWEN,
    "qwen3_vl": QWEN,
    "qwen3_vl_moe": QWEN,
    "qwen3_5": QWEN,
    "qwen3_5_moe": QWEN,
    "glm4v": GLM,
    "glm4v_moe": GLM,
    "glm46v": GLM._replace(
        image_processor=lambda: transformers.Glm46VImageProcessorPil(
            size={"shortest_edge": 2 * 28 * 28, "longest_edge": 28 * 28 * 12}
        )
    ),
    "mistral3": PIXTRAL,
    "pixtral": PIXTRAL._replace(
        family="llava",
        settings={"patch_size": 14, "processor_class": "PixtralProcessor"},
        model={"vision_feature_layer": -1, "vision_feature_select_strategy": "full"},
        text={"model_type": "mistral"},
        vision={"model_type": "pixtral", "head_dim": 8},
    ),
    "llava": Kind(
        lambda: transformers.CLIPImageProcessorPil(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
        ),
        ("<image>",),
        "<image>",
        {},
        {"image_token_id": "<image>"},
        {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
        {"vision_feature_select_strategy": "default"},
    ),
    "smolvlm": IDEFICS._replace(
        image_processor=lambda: transformers.SmolVLMImageProcessorPil(
            size={"longest_edge": 56},
            max_image_size={"longest_edge": 28},
        ),
        needs="num2words",
    ),
    "aya_vision": Kind(
        lambda: transformers.GotOcr2ImageProcessorPil(
            size={"height": 28, "width": 28}, crop_to_patches=True, min_patches=1, max_patches=3
        ),
        ("<|IMG_PATCH|>", "<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "TILE_GLOBAL", "TILE_1", "TILE_2"),
        "<image>",
        {},
        {"image_token_id": "<|IMG_PATCH|>"},
        {"patch_size": 14, "img_size": 28, "downsample_factor": 2},
        {"downsample_factor": 2},
    ),
    "gemma4": Kind(
        lambda: transformers.Gemma4ImageProcessorPil(
            patch_size=14, max_soft_tokens=70, pooling_kernel_size=2
        ),
        ("<|image|>", "<|image>", "<image|>", "<|video|>", "<|audio|>", "<|audio>", "<audio|>"),
        "<|image|>",
        {
            "image_token": "<|image|>",
            "boi_token": "<|image>",
            "eoi_token": "<image|>",
            "audio_token": "<|audio|>",
            "boa_token": "<|audio>",
            "eoa_token": "<audio|>",
        },
        {
            "image_token_id": "<|image|>",
            "boi_token_id": "<|image>",
            "eoi_token_id": "<image|>",
            "video_token_id": "<|video|>",
            "audio_token_id": "<|audio|>",
        },
    ),
    "llama4": Kind(
        lambda: transformers.Llama4ImageProcessor(size={"height": 28, "width": 28}, max_patches=3),
        (
            "<|patch|>",
            "<|image|>",
            "<|image_start|>",
            "<|image_end|>",
            "<|tile_x_separator|>",
            "<|tile_y_separator|>",
        ),
        "<|image|>",
        {},
        {"image_token_id": "<|patch|>"},
        {"patch_size": 14},
        vision={"intermediate_size": 128},
        needs="torchvision",
    ),
    "kimi_k25": Kind(
        lambda: transformers.Kimi_K25ImageProcessor(size={"max_height": 84, "max_width": 84}),
        ("<|media_pad|>", "<|kimi_k25_video_placeholder|>", "<|media_begin|>", "<|media_end|>"),
        "<|media_begin|><|media_pad|><|media_end|>",
        {},
        {"image_token_id": "<|media_pad|>", "video_token_id": "<|kimi_k25_video_placeholder|>"},
        vision={"pos_emb_height": 8, "pos_emb_width": 8},
        model={"projection_hidden_size": 32, "tie_word_embeddings": False},
        needs="torchvision",
    ),
    "deepseek_vl": Kind(
        lambda: transformers.DeepseekVLImageProcessorPil(size={"height": 28, "width": 28}),
        ("<image_placeholder>",),
        "<image_placeholder>",
        {"image_token": "<image_placeholder>"},
        {"image_token_id": "<image_placeholder>"},
        {"num_image_tokens": 4},
    ),
    "ovis2": Kind(
        lambda: transformers.Ovis2ImageProcessorPil(
            size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=4
        ),
        ("<IMG_ATOM>", "<image>", *OVIS_AROUND),
        "<image>",
        {},
        {"image_token_id": "<IMG_ATOM>", "visual_indicator_token_ids": OVIS_AROUND},
        {"image_seq_length": 4},
    ),
    "minicpm_ocr": MINICPM._replace(
        image_processor=lambda: transformers.MiniCPMOcrImageProcessor(scale_resolution=56, max_slice_nums=4),
        needs="torchvision",
    ),
    "minicpmv4_6": MINICPM,
    "minicpmv4_7": CANVAS,
    "minicpmv4_7_in_4x": CANVAS._replace(
        image_processor=lambda: transformers.MiniCPMV4_6ImageProcessorPil(
            scale_resolution=56, max_slice_nums=4, downsample_mode="4x"
        ),
        model={"downsample_mode": "4x"},
        family="minicpmv4_7",
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
    "idefics3": IDEFICS,
}


def save(family: str, folder: Path, tokenizer: Any) -> Path:
    """A folder with a tiny random model of the family, its tokenizer, and its processor."""
    kind = KINDS[family]
    if kind.needs:
        pytest.importorskip(kind.needs)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": list(kind.tokens)})
    tokenizer.chat_template = TEMPLATE.replace("IMAGE", kind.written)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in kind.config.items()}
    text, vision, whole = {**seeing.FAMILIES, **FAMILIES}[kind.family or family]
    # Images must be in the window of the answers.
    text = {**text, **kind.text, "vocab_size": -(-len(tokenizer) // 64) * 64}
    for window in {"sliding_window", "attention_chunk_size"} & text.keys():
        text[window] = text[window] and 512
    if "hidden_size" in whole:  # Ovis 2 has sizes of its language part twice
        ids["vocab_size"] = text["vocab_size"]
    settings = text, {**vision, **kind.vision}, {**whole, **ids, **kind.model}
    seeing.make(kind.family or family, settings).save_pretrained(folder)
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


def talks_file(folder: Path) -> Path:
    """The pictures, and a file of two rows of LLaVA's form about them."""
    picture_files(folder)
    talk = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "a block"}]
    rows = [{"image": name, "conversations": talk} for name in ("a.png", "c.png")]
    (folder / "talks.json").write_text(json.dumps(rows))
    return folder / "talks.json"
