"""The encoder and projector of a LLaVAModel, and the tokens of its images, by the encoder's config.json.

{"image_size": 336, "patch_size": 14, "hidden_size": 1024, ...}  ->  304 million weights, 576 tokens an image
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from xtuner.config.folders import called, walk
from xtuner.errors import ModelError
from xtuner.estimate.shape import Shape
from xtuner.image_processor import num_patches
from xtuner.model_folder import read_json

MODEL = "LLaVAModel"
_DATA = ("LLaVADataset", "RefCOCOJsonDataset", "InvRefCOCOJsonDataset")
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "image_size", "patch_size")


def with_llava(shape: Shape | None, model: Any) -> Shape | None:
    """`shape` with the weights of encoder and projector of a config's `model`, if it is a LLaVAModel."""
    if shape is None or not isinstance(model, Mapping) or called(model) != MODEL:
        return shape
    config = _encoder_config(model.get("visual_encoder"))
    if config is None:
        return replace(shape, sees=True)
    depth = model.get("projector_depth")
    between = (depth if isinstance(depth, int) else 2) - 1
    projector = (config["hidden_size"] + 1 + between * (shape.hidden + 1)) * shape.hidden
    return replace(shape, sees=True, encoder=_num_weights(config), projector=projector)


def trained_of_llava(model: Mapping[str, Any], shape: Shape) -> int:
    """The weights of encoder and projector that a config's LLaVAModel trains as a whole."""
    is_trained = not model.get("freeze_visual_encoder") and not model.get("visual_encoder_lora")
    return shape.projector + is_trained * shape.encoder


def image_tokens(config: Mapping[str, Any]) -> int:
    """The tokens that an image adds to a sample, which counts it as one; 0 without images."""
    found = [0]
    for _, data in walk(config.get("train_dataloader"), "train_dataloader"):
        if called(data) not in _DATA:
            continue
        rows, encoder = data.get("rows_per_image"), _encoder_config(data.get("image_processor"))
        if isinstance(rows, int):
            found.append(rows - 1)
        elif encoder is not None:
            found.append(num_patches(encoder["image_size"], encoder["patch_size"]) - 1)
    return max(found)


def _encoder_config(named: Any) -> Mapping[str, Any] | None:
    """The config of the image encoder in the folder that a config names; None if it is not there."""
    name = named.get("pretrained_model_name_or_path") if isinstance(named, Mapping) else None
    if not isinstance(name, str) or not (Path(name) / "config.json").is_file():
        return None
    try:
        config = read_json(Path(name) / "config.json")
    except ModelError:
        return None
    config = config.get("vision_config", config)
    return config if all(isinstance(config.get(size), int) for size in _SIZES) else None


def _num_weights(config: Mapping[str, Any]) -> int:
    """Those of CLIP's encoder, or of SigLIP's with its head."""
    wide, inner = config["hidden_size"], config["intermediate_size"]
    patches, patch = num_patches(config["image_size"], config["patch_size"]), config["patch_size"]
    attention, mlp = 4 * wide * (wide + 1), 2 * wide * inner + wide + inner
    layers = config["num_hidden_layers"] * (attention + mlp + 4 * wide)
    pixels = config.get("num_channels", 3) * patch * patch * wide
    if "siglip" in str(config.get("model_type")):
        head = wide + attention + 2 * wide + mlp
        return pixels + wide + patches * wide + layers + 2 * wide + head
    return pixels + wide + (patches + 1) * wide + 2 * wide + layers + 2 * wide
