"""The parameter groups of equal learning rate and decay, and the kernel with which torch updates them.

paramwise_cfg = dict(custom_keys={'lora_B': dict(lr_mult=16)}, norm_decay_mult=0, bias_decay_mult=0)

lora_A ...   group 0    lr, weight_decay of the optimizer
lora_B ...   group 1    16 x lr                            LoRA+, Hayou et al. 2024, arXiv 2402.12354
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from xtuner.devices import kind_of
from xtuner.errors import ConfigError, did_you_mean
from xtuner.language import translate
from xtuner.log import say_once
from xtuner.parallel.tensors import is_divided

_OPTIONS = ("custom_keys", "norm_decay_mult", "bias_decay_mult")
_FACTORS = ("lr_mult", "decay_mult")


def parameter_groups(
    model: nn.Module, paramwise_cfg: Mapping[str, Any] | None, lr: float, decay: float
) -> Any:
    """The trainable parameters: a plain list, or groups by rate and decay if these differ."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not paramwise_cfg:
        return list(trained.values())
    _check(paramwise_cfg, trained)
    norms = {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        for name, _ in module.named_parameters(recurse=False)
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        groups.setdefault(_factors(name, name in norms, paramwise_cfg), []).append(parameter)
    return [
        {"params": params, "lr": lr * lr_mult, "weight_decay": decay * decay_mult}
        for (lr_mult, decay_mult), params in groups.items()
    ]


def _factors(name: str, is_norm: bool, cfg: Mapping[str, Any]) -> tuple[float, float]:
    """Factors of rate and decay: those of the longest key in `name`, else those of its type."""
    keys = [key for key in cfg.get("custom_keys", {}) if key in name]
    if keys:
        found = cfg["custom_keys"][max(keys, key=len)]
        return found.get("lr_mult", 1.0), found.get("decay_mult", 1.0)
    if is_norm:
        return 1.0, cfg.get("norm_decay_mult", 1.0)
    return 1.0, cfg.get("bias_decay_mult", 1.0) if name.endswith(".bias") else 1.0


def _check(cfg: Mapping[str, Any], names: Mapping[str, Any]) -> None:
    where = "optim_wrapper.paramwise_cfg"
    for key in cfg:
        if key not in _OPTIONS:
            raise ConfigError(
                translate(
                    "{where} has no key {key!r}.{hint}",
                    where=where,
                    key=key,
                    hint=did_you_mean(key, _OPTIONS),
                )
            )
    for key, factors in cfg.get("custom_keys", {}).items():
        if not any(key in name for name in names):
            raise ConfigError(
                translate(
                    "{where}.custom_keys: no trainable parameter has {key!r} in its name",
                    where=where,
                    key=key,
                )
            )
        for factor in factors:
            if factor not in _FACTORS:
                raise ConfigError(
                    translate(
                        "{where}.custom_keys[{key!r}] has no key {factor!r}.{hint}",
                        where=where,
                        key=key,
                        factor=factor,
                        hint=did_you_mean(factor, _FACTORS),
                    )
                )


def check_device(cfg: Mapping[str, Any], kind: Any, device: torch.device) -> None:
    """Raise ConfigError for an optimizer that does not work on `device`, or not as configured."""
    known = kind_of(device)
    package = getattr(kind, "__module__", "").partition(".")[0]
    if package == "bitsandbytes" and not known.has_8bit_optimizers:
        raise ConfigError(
            translate(
                "optim_wrapper.optimizer is {name} of bitsandbytes, which documents no optimizers on "
                "{device}: use torch.optim.AdamW",
                name=kind.__name__,
                device=device.type,
            )
        )
    if package == "bitsandbytes" and device.type == "cpu" and kind.__name__.startswith("Paged"):
        what = "optim_wrapper.optimizer: on the CPU {name} is {plain}, as its pages are those of a GPU"
        say_once(what, logging.INFO, name=kind.__name__, plain=kind.__name__.removeprefix("Paged"))
    if package == "torch" and cfg.get("fused") is True and not known.fused_optimizers:
        raise ConfigError(
            translate(
                "optim_wrapper.optimizer has fused=True: on {device} torch's fused optimizers may leave out "
                "clipping and the loss scale, so remove it",
                device=device.type,
            )
        )


def with_fastest_kernel(cfg: dict[str, Any], kind: Any, params: Sequence[torch.Tensor]) -> dict[str, Any]:
    """`cfg` of an optimizer, with `fused=True` if torch has that kernel and `cfg` sets none."""
    fusible = isinstance(kind, type) and kind.__module__.startswith("torch.optim.")
    chosen = {"fused", "foreach", "capturable", "differentiable", "maximize"} & cfg.keys()
    if not fusible or chosen or not all(kind.__name__ in kind_of(p.device).fused_optimizers for p in params):
        return cfg
    # torch divides no other fused kernels.
    if any(map(is_divided, params)) and kind not in (torch.optim.Adam, torch.optim.AdamW):
        return cfg
    return {**cfg, "fused": True}
