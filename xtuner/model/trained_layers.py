"""Which layers of a whole model are trained: the last ones, or those that were added.

trained_layers = 4           the last 4 layers, the last norm and the output head
trained_layers = 'added'     those that xtuner convert expand has added, and nothing else
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from xtuner.errors import ConfigError
from xtuner.estimate.training import Part
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model.base import base_model, layers_of
from xtuner.model_folder import ADDED_LAYERS

ADDED = "added"


def train_only(llm: Any, asked: int | str) -> None:
    """Freeze all of `llm` but the layers `asked` for."""
    layers = decoder_layers(llm)
    if asked == ADDED:
        numbers = getattr(llm.config.get_text_config(), ADDED_LAYERS, None)
        if not numbers:
            what = "model.trained_layers = 'added', but no layers were added: run xtuner convert expand"
            raise ConfigError(translate(what))
    elif isinstance(asked, int) and not isinstance(asked, bool) and 0 < asked <= len(layers):
        numbers = range(len(layers) - asked, len(layers))
    else:
        what = "model.trained_layers is {asked!r}; it must be 'added' or a number from 1 to {count}"
        raise ConfigError(translate(what, asked=asked, count=len(layers)))
    kept = [layers[number] for number in numbers]
    if asked != ADDED:
        kept += ends_after(llm, layers)
    llm.requires_grad_(False)
    for module in kept:
        module.requires_grad_(True)
    logger.info(translate("Trained layers: %s of %d"), ", ".join(map(str, numbers)), len(layers))


def decoder_layers(llm: Any) -> Sequence[nn.Module]:
    """The layers of the language part, in order."""
    base = base_model(llm)
    decoder = base.get_decoder() if hasattr(base, "get_decoder") else base
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList)]
    count = base.config.get_text_config().num_hidden_layers
    found = next((module for module in lists if len(module) == count), None)
    return list(found) if found is not None else layers_of(base)


def ends_after(llm: Any, layers: Sequence[nn.Module]) -> list[nn.Module]:
    """What comes after the layers: the norms beside them, and the output head unless it is tied."""
    base = base_model(llm)
    decoder = base.get_decoder()
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    inside = {id(module) for layer in layers for module in layer.modules()}
    found: list[nn.Module] = [
        module
        for module in decoder.children()
        if id(module) not in inside and "norm" in type(module).__name__.lower()
    ]
    if head is not None and head.weight is not embedding.weight:
        found.append(head)
    return found


def trained_part(llm: Any) -> Part | None:
    """Which layers of a model without an adapter are trained now; None if all are."""
    layers = decoder_layers(llm)
    trained = [number for number, layer in enumerate(layers) if _trains(layer)]
    base = base_model(llm)
    embedding = _trains(base.get_input_embeddings())
    ends = any(map(_trains, ends_after(llm, layers)))
    if len(trained) == len(layers) and embedding and ends:
        return None
    lowest = 0 if embedding else min(trained, default=len(layers))
    return Part(len(trained), len(layers) - lowest, ends, embedding)


def _trains(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())
