"""Adapters of a vision-language model: of its language part, of its encoder, and parts trained beside them.

    lora          r = 128   model.language_model.layers.0.attention.wqkv   lora_A, lora_B
    vision_lora   r = 64    model.vision_tower.encoder.layer.0.mlp.fc1     lora_A, lora_B
    whole                   model.multi_modal_projector                    a trained copy beside the old one

All of it is one adapter of peft, saved in one folder.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from xtuner.config import build
from xtuner.errors import ConfigError
from xtuner.families import PROJECTORS
from xtuner.language import translate
from xtuner.model.base import base_model
from xtuner.model.fused.linear import is_lora
from xtuner.model.language_part import language_part
from xtuner.model.lora import apply_lora
from xtuner.model.targets import is_linear, named_modules
from xtuner.model.vision.blank import never_reached

VISION, PROJECTOR, LANGUAGE = "vision", "projector", "language model"
_BASE, _COPY = "base_model.model.", ".modules_to_save.default"
# Settings that one adapter has for all its layers.
_SHARED = ("bias", "use_rslora", "use_dora", "lora_bias")


def parts_of(model: Any) -> Callable[[str], str]:
    """A function from the name of a weight of `model` to its part: VISION, PROJECTOR or LANGUAGE."""
    in_language = language_part(model)

    def part_of(name: str) -> str:
        if set(PROJECTORS) & set(name.split(".")):
            return PROJECTOR
        return LANGUAGE if in_language(name) else VISION

    return part_of


def adapt(model: Any, lora: Any, vision_lora: Any, whole: Iterable[str]) -> Any:
    """`model` with adapters by peft's LoraConfigs and, beside them, a trained copy of the parts `whole`."""
    lora, vision_lora = (build(cfg) if isinstance(cfg, Mapping) else cfg for cfg in (lora, vision_lora))
    part_of, unreached = parts_of(model), never_reached(model)
    copies = [name for part in whole for name in _topmost(model, part, part_of)]
    if lora is not None:
        model = apply_lora(model, _with_copies(lora, copies))
        for name, parameter in model.named_parameters():
            if name.removeprefix(_BASE).replace(_COPY, "") in unreached:
                parameter.requires_grad_(False)
    if vision_lora is None:
        return model
    layers = _layers(base_model(model), vision_lora, part_of)
    layers = [name for name in layers if f"{name}.weight" not in unreached]
    if lora is None:
        return apply_lora(model, _with_copies(_naming(vision_lora, layers), copies), exact=True)
    return _with_encoder(model, vision_lora, layers)


def _with_copies(lora: Any, names: Iterable[str]) -> Any:
    cfg = copy.deepcopy(lora)
    cfg.modules_to_save = [*(cfg.modules_to_save or ()), *names] or None
    return cfg


def _naming(lora: Any, layers: Iterable[str]) -> Any:
    cfg = copy.deepcopy(lora)
    cfg.target_modules, cfg.exclude_modules, cfg.layers_to_transform = set(layers), None, None
    return cfg


def _topmost(model: nn.Module, part: str, part_of: Callable[[str], str]) -> list[str]:
    """The names of the largest modules whose weights are all of `part`."""
    found: list[str] = []
    for name, module in model.named_modules():
        weights = [f"{name}.{own}" for own, _ in module.named_parameters()]
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if not name or not weights or inside or isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            continue
        if all(part_of(weight) == part for weight in weights):
            found.append(name)
    return found


def _layers(model: nn.Module, lora: Any, part_of: Callable[[str], str]) -> list[str]:
    """The names of the encoder's linear layers that `lora` adapts: all, or those that it names."""
    every = [name for name, module in named_modules(model) if is_linear(module) and part_of(name) == VISION]
    asked = lora.target_modules
    if asked is None or asked == "all-linear":
        found = every
    elif isinstance(asked, str):
        found = [name for name in every if re.fullmatch(asked, name)]
    else:
        found = [name for name in every if any(f".{name}".endswith(f".{word}") for word in asked)]
    if not found:
        what = (
            "model.visual_encoder_lora.target_modules names no linear layer of the encoder; they are {names}"
        )
        names = ", ".join(sorted({name.rpartition(".")[2] for name in every}))
        raise ConfigError(translate(what, names=names))
    return found


def _with_encoder(model: Any, lora: Any, layers: list[str]) -> Any:
    """`model`, which has an adapter of its language part, with the layers `layers` in it too."""
    from peft import inject_adapter_in_model

    found = model.peft_config["default"]
    for name in _SHARED:
        if getattr(lora, name, None) != getattr(found, name, None):
            what = "visual_encoder_lora.{name} is {own!r} and llm_lora.{name} {other!r}: they are one adapter"
            own, other = getattr(lora, name, None), getattr(found, name, None)
            raise ConfigError(translate(what, name=name, own=own, other=other))
    of_language = [n for n, module in _adapted(base_model(model))]
    holder = nn.ModuleDict({"model": base_model(model)})
    cfg = _naming(lora, [f"model.{name}" for name in layers])
    cfg.modules_to_save = None
    trained = [p for p in model.parameters() if p.requires_grad]
    inject_adapter_in_model(cfg, holder, "default")
    for parameter in trained:  # peft freezes what is no adapter
        parameter.requires_grad_(True)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()
    merged = _naming(found, [*of_language, *layers])
    for pattern in ("rank_pattern", "alpha_pattern"):
        value = lora.r if pattern == "rank_pattern" else lora.lora_alpha
        own = {re.escape(name): value for name in layers}
        setattr(merged, pattern, {**getattr(found, pattern), **own, **getattr(lora, pattern)})
    model.peft_config["default"] = merged
    return model


def _adapted(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers with an adapter, by their names without it."""
    return [(name.replace(".base_layer", ""), m) for name, m in model.named_modules() if is_lora(m)]
