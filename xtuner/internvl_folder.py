"""InternVL's own folders (`internvl_chat`): the id of their image token, their processor, their turns.

    config.json          "force_image_size": 448, "min_dynamic_patch": 1, "max_dynamic_patch": 12
    added_tokens.json    "<img>": 92544, "</img>": 92545, "<IMG_CONTEXT>": 92546
    an image             up to 12 tiles of 448 x 448 and a thumbnail, 256 times <IMG_CONTEXT> each

The processor is that of transformers' InternVL, which such a folder has not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtuner.errors import ModelError
from xtuner.language import translate
from xtuner.model_folder import read_json
from xtuner.utils import PROMPT_TEMPLATE

FAMILY = "internvl_chat"
# Attributes that transformers' processor reads from its tokenizer.
_TOKENS = {"context_image_token": "<IMG_CONTEXT>", "start_image_token": "<img>", "end_image_token": "</img>"}
_VIDEO_TOKEN = "<video>"  # which no text has: videos are not read
# Of ImageNet, as InternVL's own code has them.
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

# A template of configs -> what differs in InternVL's own form, and its system text.
_OWN_FORMS: dict[str, tuple[dict[str, str], str]] = {
    "internlm2_chat": (
        {
            "SYSTEM": "<|im_start|>system\n{system}<|im_end|>",
            "INSTRUCTION": "<|im_start|>user\n{input}<|im_end|><|im_start|>assistant\n",
            "SEP": "",
        },
        "You are an AI assistant whose name is InternLM (书生·浦语).",
    ),
    "phi3_chat": (
        {
            "SYSTEM": "<|system|>\n{system}<|end|>",
            "INSTRUCTION": "<|user|>\n{input}<|end|><|assistant|>\n",
            "SEP": "",
        },
        "You are an AI assistant whose name is Phi-3.",
    ),
}


def image_token_id(path: str | Path) -> int:
    """The id of the image token in the tokenizer of a folder or hub name; -1 if its files name none."""
    token = _TOKENS["context_image_token"]
    if (file := _file(path, "added_tokens.json")) and token in (added := read_json(file)):
        return int(added[token])
    if file := _file(path, "tokenizer_config.json"):
        for number, entry in (read_json(file).get("added_tokens_decoder") or {}).items():
            if entry.get("content") == token:
                return int(number)
    if file := _file(path, "tokenizer.json"):
        for entry in read_json(file).get("added_tokens") or []:
            if entry.get("content") == token:
                return int(entry["id"])
    return -1


def processor_parts(path: str | Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of InternVLProcessor for a folder with that config.json."""
    from transformers import AutoTokenizer, GotOcr2ImageProcessorPil

    is_tiled = bool(config.get("dynamic_image_size"))
    for name, value in (("use_thumbnail", True), ("pad2square", False)):
        if config.get(name, value) != value and is_tiled:
            what = "{path}: {name} = {value} in its config.json is not supported"
            raise ModelError(translate(what, path=path, name=name, value=config[name]))
    vision = config["vision_config"]
    size, patch = config.get("force_image_size") or vision["image_size"], vision["patch_size"]
    images = GotOcr2ImageProcessorPil(
        size={"height": size, "width": size},
        crop_to_patches=is_tiled,
        min_patches=config.get("min_dynamic_patch", 1) if is_tiled else 1,
        max_patches=config.get("max_dynamic_patch", 6) if is_tiled else 1,
        image_mean=_MEAN,
        image_std=_STD,
    )
    return {
        "image_processor": images,
        "tokenizer": name_image_tokens(AutoTokenizer.from_pretrained(str(path)), path),
        "image_seq_length": int((size // patch) ** 2 * config.get("downsample_ratio", 0.5) ** 2),
    }


def name_image_tokens(tokenizer: Any, path: str | Path) -> Any:
    """The tokenizer with the attributes for images that transformers' processor reads."""
    for name, token in _TOKENS.items():
        number = tokenizer.convert_tokens_to_ids(token)
        if number is None or number == tokenizer.unk_token_id:
            raise ModelError(translate("the tokenizer of {path} has no {token}", path=path, token=token))
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", number)
    tokenizer.video_token = _VIDEO_TOKEN
    return tokenizer


def keep_image_tokens(tokenizer: Any) -> Any:
    """The tokenizer so that its saved files hold these attributes; the one for videos is a new token."""
    named = {**_TOKENS, "video_token": _VIDEO_TOKEN}
    tokenizer.add_special_tokens({"additional_special_tokens": [_VIDEO_TOKEN]}, False)
    for name in (*named, *(f"{name}_id" for name in _TOKENS)):
        vars(tokenizer).pop(name, None)
    tokenizer._set_model_specific_special_tokens(special_tokens=named)
    return tokenizer


def _file(path: str | Path, name: str) -> Path | None:
    if Path(path).is_dir():
        file = Path(path) / name
        return file if file.is_file() else None
    from transformers.utils import cached_file

    found = cached_file(str(path), name, _raise_exceptions_for_missing_entries=False)
    return Path(found) if found else None


def own_form(template: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """The template as InternVL's own code writes it, and the system text of that; others as they are."""
    for name, (changes, system) in _OWN_FORMS.items():
        if dict(template) == dict(PROMPT_TEMPLATE[name]):
            return {**template, **changes}, system
    return template, ""
