"""A blank image for a process whose pass has none, so that all processes have the same graph.

    process 0    a a I I a     encoder(image) ─> embeddings of I
    process 1    b b b         encoder(blank) x 0 + embeddings of b

Collectives of trained or divided weights then come in the same order everywhere: backward of DDP, gathering
of FSDP and ZeRO 3. Gradients of the blank image are zeros.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xtuner.model.base import base_model
from xtuner.model.vision.encoder import ENCODERS, layers_behind
from xtuner.parallel.tensors import map_tensors

# Of the outputs of an encoder those that a model puts among its embeddings or hidden states. Others must stay
# without a gradient, as ZeRO 3 compares the modules that take part in backward.
_USED = ("pooler_output", "deepstack_features", "visual_indicator_features")


@contextlib.contextmanager
def embeddings_changed(llm: Any, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """A context in which the embeddings of words are what `change` makes of them."""

    def hook(module: nn.Module, args: Any, embeddings: Tensor) -> Tensor:
        return change(embeddings)

    handle = llm.get_input_embeddings().register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def with_blank(
    llm: Any, inputs: Mapping[str, Tensor], projector: str = ""
) -> contextlib.AbstractContextManager:
    """A context in which a pass of text runs the encoder of `llm` on the `inputs` of a blank image.

    `projector`: the name of the one that `get_image_features` leaves out.
    """
    base = base_model(llm)
    model = base.model if hasattr(getattr(base, "model", None), "get_image_features") else base

    def change(embeddings: Tensor) -> Tensor:
        features = model.get_image_features(**inputs)
        tensors: list[Tensor] = []
        if projector:
            tensors.append(getattr(model, projector)(features.last_hidden_state.flatten(0, -2)))
        else:
            map_tensors({name: features[name] for name in _USED if name in features}, tensors.append)
        # In fp32, since the sum of many numbers of 16 bits may be infinite.
        zero = torch.stack([tensor.float().sum() for tensor in tensors]).sum() * 0
        return embeddings + zero.to(embeddings.dtype)

    return embeddings_changed(llm, change)


def never_reached(llm: Any) -> set[str]:
    """The weights of encoders within a model that have no gradient from any image.

    Of CLIP and SigLIP what lies behind the layer whose output is taken; of MiniCPM-V the part that makes one
    row of four, if its config skips that.
    """
    base = base_model(llm)
    selected = getattr(base.config, "vision_feature_layer", None)
    found: set[str] = set()
    if getattr(base.config, "downsample_mode", None) == "4x":
        found |= {weight for weight, _ in base.named_parameters() if "vit_merger" in weight.split(".")}
    for name, encoder in base.named_modules():
        if type(encoder).__name__ not in ENCODERS.values():
            continue
        behind = ["head."]  # what follows is the last layer's output, normalised
        if selected is not None:
            layers = [selected] if isinstance(selected, int) else selected
            last = max(layer % (encoder.config.num_hidden_layers + 1) for layer in layers)
            behind = layers_behind(encoder, last)
        weights = (weight for weight, _ in encoder.named_parameters())
        found |= {f"{name}.{weight}" for weight in weights if weight.startswith(tuple(behind))}
    return found
