"""Folders of the package `llava`: what they are, where their image encoder is, and their processor.

    config.json   "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava",
                  "mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_projector_type": "mlp2x_gelu",
                  "image_aspect_ratio": "pad", and the fields of the language model
    weights       model.layers.0..., model.mm_projector.0..., perhaps model.vision_tower.vision_tower...
    an image      padded to a square, and a token for each patch

The tokenizer of such a folder has no token for images: the processor has one behind the vocabulary.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtuner.errors import ModelError, XTunerError
from xtuner.language import translate
from xtuner.model_folder import check_model_path, looks_local, read_json, state_of

# The package's own names of a family; older folders have "llava", which is a family of transformers too.
FAMILIES = ("llava_llama", "llava_mistral")
# The class that a folder names -> the family of its language model.
TEXT_FAMILIES = {"LlavaLlamaForCausalLM": "llama", "LlavaMistralForCausalLM": "mistral"}
_TOWER = "mm_vision_tower"
# The encoder's config, in a config.json that XTuner wrote.
ENCODER_CONFIG = "mm_vision_config"
# Beside an adapter of the package: what was trained as a whole, such as the projector.
BESIDE_ADAPTER = "non_lora_trainables.bin"
_CLASS = re.compile(r"Llava\w+ForCausalLM")
_DEPTH = re.compile(r"mlp(\d+)x_gelu")
_IMAGE = "<image>"
_TILES = "anyres"  # an `image_aspect_ratio`
# Before a chat template of texts alone: parts of messages become one text, images as the package writes them.
_AS_TEXT = """\
{%- set flat = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- set joined = namespace(text="") -%}
{%- for part in message["content"] if message["content"] is not string -%}
{%- set joined.text = joined.text + ("<image>\\n" if part["type"] == "image" else part["text"]) -%}
{%- endfor -%}
{%- set text = message["content"] if message["content"] is string else joined.text -%}
{%- set flat.messages = flat.messages + [dict(message, content=text)] -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
"""
# Encoders, and the number of their tokens that belong to no patch.
_ENCODERS = {"clip_vision_model": 1, "siglip_vision_model": 0}


def is_official(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a folder of the package `llava`."""
    names = config.get("architectures") or [""]
    is_named = config.get("model_type") in (*FAMILIES, "llava") or _CLASS.fullmatch(names[0]) is not None
    return is_named and "vision_config" not in config


def is_official_folder(path: str | Path) -> bool:
    """Whether `path` is a local folder of the package `llava`."""
    file = Path(path) / "config.json"
    return file.is_file() and is_official(read_json(file))


def check_supported(config: Mapping[str, Any], path: str | Path) -> None:
    """ModelError if the model computes what XTuner does not."""
    kind = config.get("mm_projector_type") or "linear"
    is_known = kind in ("linear", "identity") or _DEPTH.fullmatch(kind) is not None
    shapes = ("pad", "square", None, _TILES)
    refused = {
        "architectures": text_family(config) is None,
        "mm_projector_type": not is_known,
        "image_aspect_ratio": config.get("image_aspect_ratio") not in shapes,
        "mm_patch_merge_type": cuts_tiles(config) and config.get("mm_patch_merge_type") != "spatial_unpad",
        "mm_vision_select_feature": cuts_tiles(config)
        and config.get("mm_vision_select_feature", "patch") != "patch",
        **{name: bool(config.get(name)) for name in ("mm_resampler_type", "mm_use_im_start_end", "s2")},
    }
    for name, is_refused in refused.items():
        if is_refused:
            what = "{path}: {name} = {value} in its config.json is not supported"
            raise ModelError(translate(what, path=path, name=name, value=config.get(name)))


def cuts_tiles(config: Mapping[str, Any]) -> bool:
    """Whether an image is cut into tiles, as in LLaVA 1.6."""
    return config.get("image_aspect_ratio") == _TILES


def grids_of(config: Mapping[str, Any]) -> list[list[int]]:
    """Height and width of the images that are cut into tiles; the package writes width and height."""
    pairs = config["image_grid_pinpoints"]
    pairs = ast.literal_eval(pairs) if isinstance(pairs, str) else pairs
    return [[height, width] for width, height in pairs]


def text_family(config: Mapping[str, Any]) -> str | None:
    """The family of the language model; None for one that XTuner does not read in this form."""
    usual = "LlavaMistralForCausalLM" if config.get("model_type") == FAMILIES[1] else "LlavaLlamaForCausalLM"
    names = config.get("architectures") or [usual]
    return TEXT_FAMILIES.get(names[0])


def projector_depth(config: Mapping[str, Any]) -> int:
    """The number of linear layers of the projector; 0 for `identity`."""
    kind = config.get("mm_projector_type") or "linear"
    found = _DEPTH.fullmatch(kind)
    return int(found[1]) if found else int(kind == "linear")


def encoder_folder(config: Mapping[str, Any], path: str | Path) -> str:
    """The folder or hub name of the image encoder; ModelError, with the cure, if it cannot be read."""
    named = str(config.get(_TOWER) or "")
    for folder in (Path(named).expanduser(), Path(path) / named):
        if named and (folder / "config.json").is_file():
            return str(folder)
    try:
        if not named or looks_local(named):
            raise ModelError(translate("there is no such folder"))
        check_model_path(named)
    except XTunerError as error:
        what = (
            "{path} names its image encoder in config.json, mm_vision_tower = {named!r}, and it is not here: "
            "{error}. Name its folder there or by --visual-encoder"
        )
        raise ModelError(translate(what, path=path, named=named, error=error)) from error
    return named


def encoder_config(config: Mapping[str, Any], path: str | Path) -> Any:
    """The config of the image encoder, a CLIP or SigLIP."""
    from transformers import AutoConfig

    if fields := config.get(ENCODER_CONFIG):
        found: Any = AutoConfig.for_model(**fields)
    else:
        found = AutoConfig.from_pretrained(encoder_folder(config, path))
    found = getattr(found, "vision_config", found)
    if found.model_type not in (("clip_vision_model",) if cuts_tiles(config) else _ENCODERS):
        what = "{setting} {path} is not a CLIP or SigLIP: its family is {model_type!r}"
        named = config.get(_TOWER)
        raise ModelError(translate(what, setting=_TOWER, path=named, model_type=found.model_type))
    return found


def strategy_of(config: Mapping[str, Any], encoder: Any) -> str:
    """transformers' name of the encoder's tokens that are taken: all, or those of patches."""
    has_class = bool(_ENCODERS[encoder.model_type])
    takes_class = config.get("mm_vision_select_feature") == "cls_patch"
    return "default" if has_class and not takes_class else "full"


def image_token_id(path: str | Path, family: str) -> int:
    """The id of the token for images in the tokenizer of the processor."""
    return _image_token_id(str(path), family, str(state_of(path)))


@functools.lru_cache(maxsize=8)
def _image_token_id(path: str, family: str, state: str) -> int:
    return int(image_tokenizer(path, family).convert_tokens_to_ids(_IMAGE))


def image_tokenizer(path: str | Path, family: str) -> Any:
    """The tokenizer of a folder with a token for images; if it has none, that is a new one.

    `family`: of the language model.
    """
    from transformers import AutoConfig, AutoTokenizer

    # With a config, since that of the folder asks for this tokenizer.
    tokenizer = AutoTokenizer.from_pretrained(str(path), config=AutoConfig.for_model(family))
    if _IMAGE not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [_IMAGE]}, False)
    template = tokenizer.chat_template
    if isinstance(template, str) and _IMAGE not in template:
        tokenizer.chat_template = _AS_TEXT + template
    return tokenizer


def processor_of(path: str | Path, config: Mapping[str, Any], images: Any) -> Any:
    """The processor of a folder with that config.json; `images`: what prepares those for the encoder."""
    from transformers import LlavaNextProcessor, LlavaProcessor

    kind: Any = LlavaNextProcessor if cuts_tiles(config) else LlavaProcessor

    class OfficialLlavaProcessor(kind):
        def replace_image_token(self, *args: Any, **kwargs: Any) -> str:
            return super().replace_image_token(*args, **kwargs) + after

    encoder, tokenizer = encoder_config(config, path), image_tokenizer(path, str(text_family(config)))
    after, pads = _after_image(tokenizer), config.get("image_aspect_ratio") == "pad"
    return OfficialLlavaProcessor(
        _cutting(images, config) if cuts_tiles(config) else padding(images) if pads else images,
        tokenizer,
        patch_size=encoder.patch_size,
        vision_feature_select_strategy=strategy_of(config, encoder),
        num_additional_image_tokens=_ENCODERS[encoder.model_type],
    )


def _after_image(tokenizer: Any) -> str:
    """What makes the text behind an image have the tokens of a text alone, as the package encodes it."""

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    alone = ids("\n")
    # SentencePiece puts a space before a text; tokenizers of other settings than its own not behind a token.
    return " " if ids(f"{_IMAGE}\n")[1:] != alone == ids(f"{_IMAGE} \n")[1:] else ""


def padding(images: Any) -> Any:
    """The image processor `images`, which first pads an image to a square with the mean colour."""
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    return LlavaImageProcessorPil(**{**_settings_of(images), "do_pad": True})


def _cutting(images: Any, config: Mapping[str, Any]) -> Any:
    """The image processor `images`, which first cuts an image into tiles."""
    from transformers import LlavaNextImageProcessorPil

    return LlavaNextImageProcessorPil(**{**_settings_of(images), "image_grid_pinpoints": grids_of(config)})


def _settings_of(images: Any) -> dict[str, Any]:
    return {k: v for k, v in images.to_dict().items() if not k.endswith(("_type", "_class"))}
