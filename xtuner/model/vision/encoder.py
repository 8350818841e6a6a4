"""CLIP and SigLIP: from the pixels of an image to a row for each of its patches.

    pixels [k, 3, 336, 336] ──layers up to -2──> [k, 577, 1024] ──without the class token──> [k, 576, 1024]

All images have the same number of patches, so their tokens are counted without the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xtuner.config import build
from xtuner.errors import ConfigError, ModelError
from xtuner.image_processor import num_patches
from xtuner.language import translate
from xtuner.model.base import base_model
from xtuner.model.loading import as_dtype, load_config
from xtuner.model_folder import check_model_folder

SELECT_LAYER = -2
# Families by the name in config.json: of the encoder alone, and of a folder that has a text encoder too.
ENCODERS = {"clip_vision_model": "CLIPVisionModel", "siglip_vision_model": "SiglipVisionModel"}
_WITH_TEXT = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}


def vision_config(path: str | Path, setting: str) -> Any:
    """The config of the image encoder in the folder `path`; ModelError, naming `setting`, if it is none."""
    check_model_folder(path)
    config = load_config(path)
    config = config.vision_config if config.model_type in _WITH_TEXT else config
    if config.model_type not in ENCODERS:
        raise ModelError(
            translate(
                "{setting} {path} is not a CLIP or SigLIP: its family is {model_type!r}",
                setting=setting,
                path=path,
                model_type=config.model_type,
            )
        )
    return config


def check_layer(layer: int, config: Any, path: str | Path, setting: str) -> None:
    """ConfigError if the encoder of `config` has no hidden states of that number."""
    count = config.num_hidden_layers + 1
    if not -count <= layer < count:
        raise ConfigError(
            translate(
                "{setting} is {select_layer}: {visual_encoder} has the layers {first} to {last}",
                setting=setting,
                select_layer=layer,
                visual_encoder=path,
                first=-count,
                last=count - 1,
            )
        )


def load_visual_encoder(cfg: Mapping[str, Any], dtype: torch.dtype | None = None) -> Any:
    """The image encoder of a config: `pretrained_model_name_or_path`, and arguments of `from_pretrained`.

    `dtype`: of its weights, if the config has none.
    """
    import transformers

    given = {name: build(value) for name, value in cfg.items() if name != "type"}
    path = given.pop("pretrained_model_name_or_path", None)
    if path is None:
        what = "model.visual_encoder has no pretrained_model_name_or_path: name a folder of CLIP or SigLIP"
        raise ConfigError(translate(what))
    named = as_dtype(given.pop("torch_dtype", given.pop("dtype", None)))
    given.pop("trust_remote_code", None)  # both families are part of transformers
    kind = ENCODERS[vision_config(path, "model.visual_encoder").model_type]
    try:
        vision, report = getattr(transformers, kind).from_pretrained(
            path, torch_dtype=named or dtype or torch.float32, output_loading_info=True, **given
        )
    except Exception as error:  # each of transformers, safetensors and torch has its own errors
        raise ModelError(
            translate(
                "the visual encoder {visual_encoder} cannot be loaded: {error}",
                visual_encoder=path,
                error=error,
            )
        ) from error
    if report["missing_keys"]:
        raise ModelError(
            translate(
                "the visual encoder {visual_encoder} has no {name}",
                visual_encoder=path,
                name=sorted(report["missing_keys"])[0],
            )
        )
    return vision


def patch_features(vision: Any, pixels: Tensor, layer: int) -> Tensor:
    """The hidden states `[k, patches, hidden]` of `pixels [k, 3, height, width]` after a layer."""
    base = base_model(vision)
    states = base(pixels, output_hidden_states=True).hidden_states[layer]
    # Some have a token for the class before.
    return states[:, states.shape[1] - num_patches(base.config.image_size, base.config.patch_size) :]


def layers_behind(vision: Any, layer: int) -> list[str]:
    """Prefixes of the names of weights behind the selected layer, which never have a gradient."""
    count = base_model(vision).config.num_hidden_layers
    used = layer if layer >= 0 else count + 1 + layer
    return [f"encoder.layers.{number}." for number in range(used, count)] + ["post_layernorm.", "head."]


def cut_layers(vision: Any, layer: int) -> int:
    """Remove the layers behind the selected one of a frozen encoder; returns the number of the selected."""
    count = vision.config.num_hidden_layers
    used = layer if layer >= 0 else count + 1 + layer
    vision.encoder.layers = vision.encoder.layers[:used]
    vision.config.num_hidden_layers = used
    return used
