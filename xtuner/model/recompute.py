"""Activation checkpointing: layers drop their activations in forward and recompute them in backward.

    none        every layer keeps all that its backward needs
    selective   every second layer keeps only its input                         half of a forward pass more
    full        every layer keeps only its input (Chen  et al. 2016, arXiv 1604.06174)    a forward pass more
    offload     as full, with the inputs in the host's memory, and with it a    two copies of each, and
                frozen embedding; MLPs with adapters run by tiles of rows       these MLPs once more

Gradients are the same to the last bit, of MLPs in tiles to rounding. xtuner/estimate decides which one fits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from xtuner import dist
from xtuner.blocks import TILE
from xtuner.devices import is_accelerator, kind_of, pins_memory
from xtuner.estimate import machine
from xtuner.estimate.configured import choose_recompute
from xtuner.estimate.shape import read_shape
from xtuner.estimate.training import Training
from xtuner.language import translate
from xtuner.log import logger, say_once
from xtuner.model.base import base_model
from xtuner.model.fused import tile
from xtuner.model.host_embedding import keep_on_host
from xtuner.model.mapped import wanted_dtype
from xtuner.model.trained_layers import trained_part

# Tokens of a batch of unknown size.
TOKENS = 8192


def enable_recompute(llm: Any, way: str = "full") -> str:
    """Set the recomputation of `llm` and return it (not re-entrant, so that inputs may be frozen)."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    base = base_model(llm)
    if way == "none":
        return way
    if not base.supports_gradient_checkpointing:
        say_once(
            "use_activation_checkpointing={way!r}: models of the family '{model_type}' cannot "
            "recompute, so their layers keep all activations: more memory is needed",
            way=way,
            model_type=base.config.model_type,
        )
        return "none"
    device = dist.device()
    if way == "offload" and is_accelerator(device) and not kind_of(device).has_own_memory:
        say_once(
            "use_activation_checkpointing='offload' saves nothing on {device}, whose memory is the host's: "
            "layers recompute as with True",
            device=device.type,
        )
        way = "full"
    enable = getattr(base, "activation_checkpointing_enable", None)
    if enable is not None:
        enable({"use_reentrant": False})
    else:  # transformers before 5.22
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if hasattr(base, "_require_grads_hook"):
        # For re-entrant recomputation alone: it costs a gradient that no one reads, and the hook on the
        # embedding would keep its table on the device.
        base.disable_input_require_grads()
    layers = [m for m in base.modules() if isinstance(m, GradientCheckpointingLayer)]
    if way == "offload" and not all(hasattr(layer, "_gradient_checkpointing_func") for layer in layers):
        say_once(
            "Layers recompute and keep their inputs on the device: this transformers has another way to it"
        )
        way = "full"
    layer: Any
    for number, layer in enumerate(layers):
        if way == "selective" and number % 2:
            layer.gradient_checkpointing = False
        if way == "offload":
            layer._gradient_checkpointing_func = _offloaded
    if way == "offload":
        tile(base, TILE)
        keep_on_host(base)
    return way


def _offloaded(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    device = args[0].device
    with torch.autograd.graph.save_on_cpu(pin_memory=pins_memory(device), device_type=device.type):
        return checkpoint(function, *args, use_reentrant=False, **kwargs)


def recomputes(llm: Any) -> float:
    """The fraction of layers that are recomputed in backward."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [m for m in llm.modules() if isinstance(m, GradientCheckpointingLayer)]
    return sum(layer.gradient_checkpointing for layer in layers) / max(1, len(layers))


def what_fits(llm: Any) -> str:
    """The least recomputation with which a batch of TOKENS is estimated to fit into the free memory."""
    device = dist.device()
    shape = read_shape(llm.config.get_text_config().to_dict())
    # Weights that are already loaded are part of the estimate too.
    free = free_memory(device) + sum(p.nbytes for p in llm.parameters() if p.device.type == device.type)
    if shape is None:
        return "full"
    size = 4 if wanted_dtype(next(llm.parameters())) == torch.float32 else 2
    has_adapter = hasattr(llm, "peft_config")
    part, rank = (None, 64) if has_adapter else (trained_part(llm), 0)
    run = Training(TOKENS, weight_bytes=size, compute_bytes=size, rank=rank, part=part, device=device.type)
    way = choose_recompute(shape, run, free)
    logger.info(
        translate(
            "Recomputation: {way}, for {TOKENS} tokens in a batch and {free:.1f} GB free",
            way=way,
            TOKENS=TOKENS,
            free=free / 1e9,
        )
    )
    return way


def free_memory(device: torch.device) -> int:
    """The free bytes of `device`."""
    return machine.memory_of(device)[0]
