"""The language part of a model: its weights for text, not those for images or audio.

model.visual.blocks.0.attn.qkv.weight            images: frozen, no target of LoRA
model.language_model.layers.0.mlp.up_proj.weight  the language part
lm_head.weight                                    the language part
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

from xtuner.log import say_once

# In the names of sub-configs.
_MODALITIES = re.compile("vision|image|vq|audio|speech|codec")


def language_part(model: Any) -> Callable[[str], bool]:
    """A function from the name of a module or weight to whether it is in the language part of `model`."""
    inside, outside = _prefixes(model)

    def belongs(name: str) -> bool:
        here = f"{name}."
        return any(map(here.startswith, inside)) and not any(map(here.startswith, outside))

    return belongs


def freeze_the_rest(model: Any) -> None:
    """Freeze the parts for images and audio, to which text gives no gradient."""
    belongs = language_part(model)
    rest = [weight for name, weight in model.named_parameters() if not belongs(name)]
    for weight in rest:
        weight.requires_grad_(False)
    if rest:
        size = sum(weight.numel() for weight in rest)
        family = model.config.model_type
        say_once(
            "'{family}' is a multimodal model: its language part is trained on text, and the "
            "{size:,} parameters of its vision and audio parts are frozen",
            logging.INFO,
            family=family,
            size=size,
        )


def _prefixes(model: Any) -> tuple[list[str], list[str]]:
    """Prefixes of the names in the language part, and prefixes of exceptions within it."""
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "get_decoder"):
        return [""], []
    text = config.get_text_config()
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    if text is config or decoder is model:
        return [""], _towers(model)
    names = {name: m for name, m in model.named_modules() if m is decoder or m is head}
    within = next(f"{name}." for name, module in names.items() if module is decoder)
    # Layers that attend only to images: Llama 3.2 Vision.
    crossing = {f"layers.{number}" for number in getattr(text, "cross_attention_layers", None) or ()}
    deep = [name for name, _ in decoder.named_modules() if ".".join(name.split(".")[-2:]) in crossing]
    return [f"{name}." for name in names], [f"{within}{name}." for name in deep]


def _towers(model: Any) -> list[str]:
    """The models within `model` for images or audio, by their configs."""
    kinds = tuple(
        kind for name, kind in (type(model.config).sub_configs or {}).items() if _MODALITIES.search(name)
    )
    return [f"{name}." for name, m in model.named_modules() if isinstance(getattr(m, "config", None), kinds)]
