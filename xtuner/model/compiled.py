"""`compile = True` in a config: torch compiles the model's layers for training.

    layer in training    its family's own forward, compiled once for all layers (torch.compile)
      attention          as without: where packed samples begin and end changes with every batch
      adapted experts    as without: so do the tokens of each
    layer else           its own forward, as it is

It takes the place of the functions of xtuner/model/fused, which need no minutes to warm up. Layers that are
recomputed in backward keep those.
docs/configs.md tells what it brought on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

import torch
from torch import nn

from xtuner.language import translate
from xtuner.log import logger
from xtuner.model import attention
from xtuner.model.base import layers_of
from xtuner.model.fused import unfuse
from xtuner.model.fused.experts import is_on_parameter


def compile_layers(llm: nn.Module, settings: Mapping[str, Any]) -> None:
    """Compile the layers of `llm` for training; `settings` are arguments of torch.compile."""
    from transformers import AttentionInterface

    all_layers: list[Any] = layers_of(llm)
    layers = [layer for layer in all_layers if not getattr(layer, "gradient_checkpointing", False)]
    if recomputed := len(all_layers) - len(layers):
        logger.warning(
            translate(
                "compile: %d of %d layers are recomputed in backward, which torch does not compile; "
                "model.use_activation_checkpointing = False keeps all as they are"
            ),
            recomputed,
            len(all_layers),
        )
    if not layers:
        return
    AttentionInterface.register(attention.NAME, torch.compiler.disable(attention.attention))
    compiled: dict[type, Callable[..., Any]] = {}
    for layer in layers:
        # The number of tokens of an expert changes with every batch.
        experts = {m: m.forward for m in layer.modules() if is_on_parameter(m) and "forward" in vars(m)}
        unfuse(layer)
        for module, forward in experts.items():
            module.forward = torch.compiler.disable(forward)
        kind = type(layer)
        compiled.setdefault(kind, torch.compile(kind.forward, **settings))
        layer.forward = MethodType(_in_training(compiled[kind]), layer)
    logger.info(translate("Compiling %d layers in the first iterations, which takes its time"), len(layers))


def _in_training(compiled: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return (compiled if self.training else type(self).forward)(self, *args, **kwargs)

    return forward
