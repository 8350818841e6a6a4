"""The targets of an adapter: linear layers of the language part, and experts packed into a parameter.

    model.layers.3.self_attn.q_proj            a linear layer              adapted
    model.layers.3.mlp.experts.gate_up_proj    [experts, out, in]          adapted, each expert's matrix
    model.layers.3.mlp.gate                    chooses experts             left out
    model.vision_tower.encoder.layers.3.fc1    not in the language part    left out
    model.layers.3.mixer.out_proj              a kernel reads its weight   left out: an adapter is ignored

Names are those of modules and parameters in a model without an adapter.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from xtuner.errors import ConfigError, did_you_mean
from xtuner.families import family_of
from xtuner.language import translate
from xtuner.model.language_part import language_part

_HEADS = {"lm_head", "output_layer"}
# Layers that choose experts, or tokens for attention: a choice has no gradient.
_ROUTERS = {"gate", "router", "wg", "gating"}
_INDEXER = "indexer"
# The names in configs of the number of experts per token.
_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts")
CHOOSES, SENSES, READ, MORE = (
    "the routers of experts or tokens",
    "the vision and audio parts",
    "the layers whose weight a kernel of the family reads, which bypasses an adapter",
    "the layers that do more than a matrix product",
)


@dataclass(frozen=True)
class Targets:
    """Names of layers and of parameters to adapt; `left_out`: other linear layers, by the reason."""

    layers: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules by their names without an adapter; modules of adapters are left out."""
    for name, module in model.named_modules():
        if not hasattr(module, "base_layer") and ".lora_" not in name:
            yield name.replace(".base_layer", ""), module


def is_linear(module: nn.Module) -> bool:
    """Whether `module` is a linear layer, including quantised ones and GPT-2's Conv1D."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (nn.Linear, Conv1D))


def _is_container(module: nn.Module) -> bool:
    """Whether `module` holds layers and has no parameters itself."""
    return any(True for _ in module.children()) and not any(True for _ in module.parameters(recurse=False))


def packed_experts(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that hold a matrix of every expert of a layer, by name."""
    return {
        f"{name}.{own}": parameter
        for name, module in named_modules(model)
        if "expert" in type(module).__name__.lower()
        for own, parameter in module.named_parameters(recurse=False)
        if parameter.dim() == 3
    }


def experts_per_token(config: Any) -> int | None:
    """The number of experts per token, or None if the config does not have it."""
    text = config.get_text_config()
    for name in _PER_TOKEN:
        value = getattr(text, name, None)
        value = max(value) if isinstance(value, (list, tuple)) and value else value  # one for each layer
        if isinstance(value, int) and value > 0:
            return value
    return None


def find_targets(model: Any, cfg: Any, *, exact: bool = False) -> Targets:
    """The targets of peft's LoraConfig `cfg`.

    Without `target_modules`, and with "all-linear", these are `default_targets`.
    Names of separate expert layers, from before a family packed them, mean the packed ones, and parts for
    images or audio are left out, unless `exact`: then the targets are those named, as for a saved adapter.
    """
    asked = cfg.target_modules
    if (asked is None and not cfg.target_parameters) or (isinstance(asked, str) and asked == "all-linear"):
        found = _allowed(default_targets(model), cfg)
    elif asked is None:
        found = Targets()
    else:
        found = _named_targets(model, cfg, exact)
    if cfg.target_parameters:
        found = _with_parameters(model, found, cfg.target_parameters)
    return found


def linear_layer_names(model: Any) -> list[str]:
    """Last words of the names of the layers that are adapted without `target_modules`."""
    return sorted({name.rpartition(".")[2] for name in default_targets(model).layers})


def default_targets(model: Any) -> Targets:
    """All linear layers and packed experts of the language part that can and should be adapted."""
    modules = dict(named_modules(model))
    packed, belongs = packed_experts(model), language_part(model)
    blocks = _expert_blocks(modules, packed)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    found = Targets(parameters=[name for name in packed if belongs(name)])
    for name, module in modules.items():
        if not is_linear(module) or module is head or name.rpartition(".")[2] in _HEADS:
            continue
        if not belongs(name):
            reason = SENSES
        elif _chooses(name, module, blocks):
            reason = CHOOSES
        else:
            reason = unfit(model, name, module)
        if reason:
            found.left_out.setdefault(reason, []).append(name)
        else:
            found.layers.append(name)
    return found


def unfit(model: Any, name: str, module: nn.Module) -> str:
    """The reason why an adapter on the linear layer `module` has no effect or breaks it, or `""`."""
    family = family_of(model.config) if hasattr(model, "config") else None
    if family is not None and name.rpartition(".")[2] in family.weights_read:
        return READ
    return "" if _is_matrix(module) else MORE


def _expert_blocks(modules: Mapping[str, nn.Module], packed: Iterable[str]) -> dict[str, int]:
    """Modules that hold experts, packed or as separate modules, and their number."""
    blocks = {}
    for name in packed:
        experts, _, own = name.rpartition(".")
        blocks[experts.rpartition(".")[0]] = len(modules[experts].get_parameter(own))
    for name, module in modules.items():
        parent, _, own = name.rpartition(".")
        if isinstance(module, nn.ModuleList) and own == "experts":
            blocks[parent] = len(module)
    return blocks


def _chooses(name: str, module: Any, blocks: Mapping[str, int]) -> bool:
    """Whether the layer chooses experts or tokens, or is the gate of the shared expert."""
    parts = name.split(".")
    if _INDEXER in parts:
        return True
    parent = ".".join(parts[:-1])
    if parent in blocks and _outputs(module) in (1, blocks[parent]):
        return True
    return any(part in _ROUTERS and ".".join(parts[:i]) in blocks for i, part in enumerate(parts))


def _outputs(module: Any) -> int:
    return module.out_features if hasattr(module, "out_features") else module.nf


def _is_matrix(module: Any) -> bool:
    """Whether a linear layer is a plain one: a family's subclass may do anything."""
    kind = type(module)
    if not isinstance(module, nn.Linear) or kind.forward is nn.Linear.forward:
        return True
    if not kind.__module__.startswith("transformers.models."):
        return True  # quantised: peft knows it
    weight = module.weight
    try:
        with torch.no_grad():
            out = module(torch.zeros(2, module.in_features, dtype=weight.dtype, device=weight.device))
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    return isinstance(out, torch.Tensor) and out.shape == (2, module.out_features)


def matches(cfg: Any, name: str) -> bool:
    """Whether peft would adapt a module of that name with `cfg`."""
    from peft.tuners.tuners_utils import check_target_module_exists

    return bool(check_target_module_exists(cfg, name))


def _allowed(targets: Targets, cfg: Any) -> Targets:
    """The `targets` that `exclude_modules`, `layers_to_transform` and `modules_to_save` allow."""
    cfg = copy.copy(cfg)

    def kept(names: list[str]) -> list[str]:
        cfg.target_modules = {name.rpartition(".")[2] for name in names}
        return [name for name in names if matches(cfg, name)]

    return Targets(kept(targets.layers), kept(targets.parameters), targets.left_out)


def _named_targets(model: Any, cfg: Any, exact: bool) -> Targets:
    found, belongs = Targets(), language_part(model)
    for name, module in named_modules(model):
        if not name or not matches(cfg, name):
            continue
        if not exact and not belongs(name):
            found.left_out.setdefault(SENSES, []).append(name)
        elif _is_plain_weight(module):
            found.parameters.append(f"{name}.weight")
        else:
            found.layers.append(name)
    if not exact:
        own = own_layers(model)
        found.parameters.extend(
            name for name in packed_experts(model) if any(matches(cfg, old) for old in _spellings(name, own))
        )
    return found


def _is_plain_weight(module: nn.Module) -> bool:
    """Whether `module` has a matrix `weight` but is not a layer that peft wraps, such as a router."""
    weight = dict(module.named_parameters(recurse=False)).get("weight")
    known = (nn.Linear, nn.Embedding, nn.MultiheadAttention, nn.modules.conv._ConvNd)
    return (
        weight is not None and weight.dim() == 2 and not isinstance(module, known) and not is_linear(module)
    )


def _spellings(name: str, own: Mapping[str, set[str]]) -> list[str]:
    """The names for the packed parameter in a config: its own, and those of separate expert layers."""
    experts, _, last = name.rpartition(".")
    return [name, *(f"{experts}.{i}{old}" for old in sorted(own[last]) for i in ("", "0."))]


def own_layers(model: Any) -> dict[str, set[str]]:
    """Last words of packed parameters -> the names of separate expert layers in files: gate_proj, up_proj.

    From transformers' mappings of files to models, and from the name of the parameter.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping

    words = {name.rpartition(".")[2] for name in packed_experts(model)}
    found = {word: {"gate_proj", "up_proj"} if word == "gate_up_proj" else {word} for word in words}
    for transform in get_model_conversion_mapping(model) if words else ():
        for target in transform.target_patterns:
            word = target.replace("\\", "").rpartition(".")[2]
            if word in words:
                sources = (s.replace("\\", "").removesuffix(".weight") for s in transform.source_patterns)
                found[word] |= {source.rpartition(".")[2] for source in sources}
    return found


def _with_parameters(model: Any, found: Targets, asked: Iterable[str]) -> Targets:
    """`found` and the parameters named in `asked`; the weight of a linear layer means that layer."""
    modules = dict(named_modules(model))
    names = {
        f"{name}.{own}": module
        for name, module in modules.items()
        for own, _ in module.named_parameters(recurse=False)
    }
    layers, parameters = set(found.layers), set(found.parameters)
    for wanted in asked:
        hits = [name for name in names if name == wanted or name.endswith(f".{wanted}")]
        if not hits:
            choices = sorted({name.rpartition(".")[2] for name in packed_experts(model)})
            raise ConfigError(
                translate(
                    "model.lora.target_parameters names {wanted!r}, which this model does not have.{hint}",
                    wanted=wanted,
                    hint=did_you_mean(wanted.rpartition(".")[2], choices),
                )
            )
        for name in hits:
            module, _, own = name.rpartition(".")
            if own == "weight" and is_linear(names[name]):
                layers.add(module)
            else:
                parameters.add(name)
    in_order = [name for name in modules if name in layers]
    return Targets(in_order, [name for name in names if name in parameters], found.left_out)


def check_targets(model: Any, cfg: Any) -> None:
    """Raise ConfigError if a name in `target_modules` matches nothing or an adapter has no effect."""
    asked = cfg.target_modules
    if asked is None or asked == "all-linear":
        return
    own = own_layers(model)
    modules = {name: module for name, module in named_modules(model) if name}
    packed = [spelled for name in packed_experts(model) for spelled in _spellings(name, own)]
    names = [*modules, *packed]
    if isinstance(asked, str):
        unknown = [] if any(re.fullmatch(asked, name) for name in names) else [asked]
    else:
        unknown = [t for t in sorted(asked) if not any(n == t or n.endswith(f".{t}") for n in names)]
    if unknown:
        choices = sorted({*linear_layer_names(model), *own})
        raise ConfigError(
            translate(
                "model.lora.target_modules names {name!r}, which this model does not have; its linear "
                "layers are {names}.{hint}",
                names=", ".join(choices),
                hint=did_you_mean(unknown[0], choices),
                name=unknown[0],
            )
        )
    for wanted in [] if isinstance(asked, str) else sorted(asked):
        hits = [module for name, module in modules.items() if name == wanted or name.endswith(f".{wanted}")]
        if hits and all(map(_is_container, hits)):
            raise ConfigError(
                translate(
                    "model.lora.target_modules names {name!r}, which is not a layer but holds some; the "
                    "linear layers of this model are {names}",
                    name=wanted,
                    names=", ".join(linear_layer_names(model)),
                )
            )
    for name, module in modules.items():
        if is_linear(module) and matches(cfg, name) and (reason := unfit(model, name, module)):
            raise ConfigError(
                translate(
                    "model.lora.target_modules names {name}, one of {reason}: leave it out",
                    name=name,
                    reason=translate(reason),
                )
            )
