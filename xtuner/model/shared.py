"""One loaded base under the models of several runs.

base        weights, once in memory
share(base) another set of modules, with the same weights: takes an adapter of its own
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from xtuner.config import Builder, build
from xtuner.language import translate
from xtuner.model import loading
from xtuner.model.language_model import PackedLanguageModel

# What decides the loaded base.
_OF_BASE = ("llm", "tokenizer", "max_position_embeddings", "text_only")
# What layers of bitsandbytes know of their codes, and change as they run.
_OF_CODES = ("quant_state", "state")


def why_own_base(model: Mapping[str, Any]) -> str:
    """The reason why a config's `model` cannot share a loaded base, or `""`."""
    kind = build(model["type"])
    language_model = isinstance(kind, type) and issubclass(kind, PackedLanguageModel)
    if not language_model or kind.unbuilt != frozenset({"llm"}) or not isinstance(model.get("llm"), Mapping):
        return translate("{kind} loads its model itself", kind=getattr(kind, "__name__", kind))
    if model.get("lora") is None and model.get("peft_model") is None:
        return translate("without model.lora all weights are trained")
    lora = build(model["lora"]) if isinstance(model.get("lora"), Mapping) else model.get("lora")
    if getattr(lora, "bias", "none") != "none":
        return translate("model.lora.bias trains weights of the base")
    return ""


def base_key(model: Mapping[str, Any]) -> str:
    """What two configs' `model` have in common if they have the same base."""
    return repr([model.get(name) for name in _OF_BASE])


def load_base(model: Mapping[str, Any], device: torch.device) -> nn.Module:
    """The base of a config's `model`, frozen, on `device`."""
    tokenizer = model.get("tokenizer")
    base: Any = loading.load_llm(
        dict(model["llm"]),
        tokenizer=None if tokenizer is None else Builder().build(tokenizer, "model.tokenizer"),
        max_position_embeddings=model.get("max_position_embeddings"),
        text_only=model.get("text_only", True),
    )
    base.requires_grad_(False)
    # As the run does: transformers has a `to` of its own, which quantised models refuse.
    return nn.Module.to(base, device)


def share(base: nn.Module) -> nn.Module:
    """The modules of `base` once more, with the same weights and buffers."""
    memo: dict[int, Any] = {}
    for module in base.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            memo[id(tensor)] = tensor
        for name in _OF_CODES:
            if (known := vars(module).get(name)) is not None:
                memo[id(known)] = known
    return copy.deepcopy(base, memo)
