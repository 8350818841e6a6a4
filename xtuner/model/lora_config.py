"""A LoraConfig with which every version of peft adapts the same layers and experts.

    found      layers ...self_attn.q_proj, ...shared_experts.up_proj; parameters ...experts.gate_up_proj
    written    target_modules     ["q_proj"]
               target_parameters  ["experts.gate_up_proj", "shared_experts.up_proj.weight"]
               rank_pattern       {"experts.gate_up_proj": 8}       r = 64, with 8 experts per token

If a family packs its experts, peft reads `gate_proj`, `up_proj`, ... in `target_modules` as the packed
parameters and does not adapt other layers of that name; so those are named by their weights.
"""

from __future__ import annotations

import copy
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from xtuner.language import translate
from xtuner.model.targets import Targets, experts_per_token, matches, named_modules, packed_experts

_READ_AS_EXPERTS = {"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}
# Initialisations that read the weight of a layer.
_PLAIN_STARTS = (True, False, "gaussian")


def lacks(cfg: Any) -> str:
    """The setting of `cfg` that peft does not support on packed experts, or `""`."""
    if cfg.use_dora:
        return "use_dora"
    if getattr(cfg, "lora_bias", False):
        return "lora_bias"
    return "" if cfg.init_lora_weights in _PLAIN_STARTS else f"init_lora_weights={cfg.init_lora_weights!r}"


def resolve(cfg: Any, model: Any, targets: Targets) -> Any:
    """`cfg` naming exactly `targets`; names that mean exactly these are unchanged."""
    found = copy.deepcopy(cfg)
    packed = packed_experts(model)
    by_name = cfg.target_modules is not None and cfg.target_modules != "all-linear"
    if by_name and not (packed or targets.parameters or targets.left_out):
        return found
    by_weight = [name for name in targets.layers if packed and _last(name) in _READ_AS_EXPERTS]
    plain = set(targets.layers) - set(by_weight)
    found.target_modules = {_end(name) for name in plain}
    others = [name for name, _ in named_modules(model) if name and name not in plain and matches(found, name)]
    if others:
        found.exclude_modules = _either(cfg.exclude_modules, _pattern(others, plain))
    wanted = [*targets.parameters, *(f"{name}.weight" for name in by_weight)]
    if not wanted:
        return found
    every = [
        f"{name}.{own}" for name, m in named_modules(model) for own, _ in m.named_parameters(recurse=False)
    ]
    found.target_parameters = shortest(wanted, every)
    found.lora_dropout = 0.0  # peft has none for parameters and refuses the whole adapter
    for pattern in ("rank_pattern", "alpha_pattern"):
        set_for = getattr(found, pattern)
        for name, value in list(set_for.items()):
            if any(_is_meant(name, layer) for layer in by_weight):
                set_for[rf"{name}\.weight"] = value
    _rank_experts(found, cfg, model, shortest([n for n in targets.parameters if n in packed], every))
    return found


def _rank_experts(found: Any, cfg: Any, model: Any, names: Iterable[str]) -> None:
    """Divide the rank `r` by the number of experts per token, unless the config sets a rank for experts.

    After Schulman et al. 2025, LoRA Without Regret (thinkingmachines.ai/blog/lora).
    """
    rank = max(1, cfg.r // (experts_per_token(model.config) or 1))
    share = rank / cfg.r
    alpha = cfg.lora_alpha * (math.sqrt(share) if cfg.use_rslora else share)
    for name in names:
        if any(name.endswith(asked) for asked in cfg.target_parameters or ()) or rank == cfg.r:
            continue
        if not any(_is_meant(pattern, name) for pattern in cfg.rank_pattern):
            found.rank_pattern[name] = rank
            if not any(_is_meant(pattern, name) for pattern in cfg.alpha_pattern):
                found.alpha_pattern[name] = int(alpha) if alpha == int(alpha) else alpha


def _is_meant(pattern: str, name: str) -> bool:
    """Whether peft applies a rank or alpha `pattern` to the target `name`."""
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


def shortest(names: Iterable[str], others: Iterable[str], parts: int = 2) -> list[str]:
    """The shortest suffixes of `names`, of at least two words, that none of `others` has."""
    chosen = set(names)
    rest = [name.split(".") for name in others if name not in chosen]
    found = set()
    for name in chosen:
        words = name.split(".")
        length = min(parts, len(words))
        while length < len(words) and any(other[-length:] == words[-length:] for other in rest):
            length += 1
        found.add(".".join(words[-length:]))
    return sorted(found)


def _pattern(names: Iterable[str], kept: Iterable[str]) -> str:
    """A pattern that matches `names` and none of `kept`, with any layer number if that is equivalent."""
    exact = sorted({re.escape(name) for name in names})
    loose = "|".join(sorted({re.sub(r"\\\.\d+(?=\\\.)", r"\\.\\d+", name) for name in exact}))
    return "|".join(exact) if any(re.fullmatch(loose, name) for name in kept) else loose


def _either(excluded: Any, more: str) -> str:
    """A pattern of the names that `excluded` (a pattern or suffixes) excludes, and of `more`."""
    if not excluded:
        return more
    if not isinstance(excluded, str):
        excluded = rf"(?:.*\.)?(?:{'|'.join(sorted(map(re.escape, excluded)))})"
    return f"{excluded}|{more}"


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _end(name: str) -> str:
    """The last word of `name`, with numbers directly before it."""
    found = re.search(r"[^.]+(\.\d+)*$", name)
    assert found, name
    return found[0]


def parts(asked: Any, found: Any, targets: Targets, holder: str) -> tuple[Any, Any]:
    """The part of `asked`, resolved to `found`, that adapts parameters, and layers in `holder`."""
    from peft.utils.constants import DUMMY_TARGET_MODULES

    parameters, layers = copy.deepcopy(found), copy.deepcopy(asked)
    parameters.target_modules = DUMMY_TARGET_MODULES
    parameters.target_parameters = targets.parameters or None
    parameters.lora_dropout = 0.0
    layers.target_modules = {f"{holder}.{name}" for name in targets.layers}
    layers.target_parameters = layers.modules_to_save = layers.trainable_token_indices = None
    for cfg in (parameters, layers):
        cfg.exclude_modules = cfg.layers_to_transform = None
    return parameters, layers


def describe(cfg: Any, found: Any, model: Any, targets: Targets) -> list[str]:
    """The messages about an adapter: experts, layers left out, settings that a merged model cannot hold."""
    lines = []
    packed = packed_experts(model)
    experts = [name for name in targets.parameters if name in packed]
    if experts:
        layers = translate(
            "{count} linear layers ({names}) and ", count=len(targets.layers), names=_counted(targets.layers)
        )
        lines.append(
            translate(
                "LoRA on {layers}the experts of each layer: {experts}; {ranks}",
                layers=layers if targets.layers else "",
                experts=_counted(experts),
                ranks=_ranks(found, cfg, model, experts),
            )
        )
        if cfg.lora_dropout:
            lines.append(
                translate(
                    "lora_dropout={rate} is that of linear layers: peft has none for packed experts",
                    rate=cfg.lora_dropout,
                )
            )
        if old := _renamed(cfg, experts):
            lines.append(old)
    for reason, names in targets.left_out.items():
        lines.append(
            translate("LoRA leaves out {what}: {names}", what=translate(reason), names=_counted(names))
        )
    modules = dict(named_modules(model))
    if shared := _shared(targets.layers, modules):
        lines.append(
            translate(
                "LoRA: {names} share weights with other layers and have adapters of their own, which no "
                "merged model can hold: use the adapter with its base model",
                names=_counted(shared),
            )
        )
    if getattr(cfg, "lora_bias", False):
        without = [name for name in targets.layers if getattr(modules[name], "bias", None) is None]
        if without:
            lines.append(
                translate(
                    "model.lora.lora_bias: {names} have no bias, so no merged model can hold that of the "
                    "adapter: use the adapter with its base model",
                    names=_counted(without),
                )
            )
    return lines


def _shared(layers: Iterable[str], modules: Mapping[str, Any]) -> list[str]:
    """The `layers` whose weight is tied to that of an earlier one."""
    seen: set[int] = set()
    found = []
    for name in layers:
        weight = id(modules[name].weight)
        if weight in seen:
            found.append(name)
        seen.add(weight)
    return found


def _ranks(found: Any, cfg: Any, model: Any, experts: list[str]) -> str:
    ranks = sorted({rank_of(found, name) for name in experts})
    each = translate("rank {ranks} for each expert", ranks=translate(" or ").join(map(str, ranks)))
    active = experts_per_token(model.config)
    more = translate(", as a token passes {count}", count=active) if active and ranks != [cfg.r] else ""
    return each + more


def rank_of(cfg: Any, name: str) -> int:
    """The rank that peft gives the target `name`."""
    return next((rank for pattern, rank in cfg.rank_pattern.items() if _is_meant(pattern, name)), cfg.r)


def _renamed(cfg: Any, experts: list[str]) -> str:
    """The message that names of separate expert layers were read as the packed parameters."""
    asked = cfg.target_modules
    asked = [asked] if isinstance(asked, str) else sorted(asked or ())
    words = {_last(name) for name in experts}
    if not asked or asked == ["all-linear"] or words <= set(asked):
        return ""
    found = ", ".join(sorted(words))
    return translate(
        "model.lora.target_modules: this family packs experts, so {names} are adapted for them", names=found
    )


def _counted(names: Iterable[str]) -> str:
    """`self_attn.q_proj (32), ...`: names without layer numbers, and their counts."""
    ends = [".".join([word for word in name.split(".") if not word.isdigit()][-2:]) for name in names]
    return ", ".join(f"{end} ({count})" for end, count in sorted(Counter(ends).items()))
