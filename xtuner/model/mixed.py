"""Supervised fine-tuning of several adapters by one forward and backward pass over their base.

run 1    a a a b b _        packed and padded as for the run alone
run 2    c c d d d d
mixed    a a a b b _ c c d d d d      one sequence; samples never attend to each other
hidden   run 1's | run 2's            the head at each run's tokens with a loss: one loss a run
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xtuner.language import translate
from xtuner.model.base import base_model
from xtuner.model.fused.linear import adapted, is_lora
from xtuner.model.fused.mixed import Mix, MixedLinear, Segment
from xtuner.model.fused.shapes import rounded
from xtuner.model.isolation import isolates
from xtuner.model.loss import head_cross_entropy_sum
from xtuner.model.packed import Packed, pack
from xtuner.model.router import balance_weight
from xtuner.model.sft import SupervisedFinetune
from xtuner.model.shared import share

RECOMPUTED_IN_PARTS = "offload"


@dataclass(frozen=True)
class Share:
    """A run's part of a mixed batch: its rows, the items of its whole update, its random numbers."""

    owner: str
    data: Mapping[str, Any]
    num_items: int
    random: torch.Generator


def why_apart(model: Any) -> str:
    """The reason why `model` cannot be trained in a mixed batch, or `""`."""
    if type(model) is not SupervisedFinetune:
        return translate("only supervised fine-tuning is mixed")
    base = base_model(model.llm)
    layers = [m for m in base.modules() if is_lora(m)]
    own = {id(p) for m in layers for p in m.parameters() if p.requires_grad}
    if any(p.requires_grad and id(p) not in own for p in model.parameters()):
        return translate("it trains weights besides LoRA's linear layers")
    if not isolates(model.llm) or model.head_apart() is None or balance_weight(model.llm) > 0:
        return translate("models of this family run by themselves")
    if model.recompute == RECOMPUTED_IN_PARTS:
        return translate("its activations are kept in the memory of the host")
    was_training = model.training
    model.train()
    try:
        plain = all(adapted(m) is not None for m in layers)
        inside = {id(inner) for m in layers for inner in m.modules()}
        drops = any(isinstance(m, nn.Dropout) and m.p for m in base.modules() if id(m) not in inside)
    finally:
        model.train(was_training)
    drops = drops or bool(getattr(base.config.get_text_config(), "attention_dropout", 0.0))
    if not plain:
        return translate("its adapter is more than plain LoRA on linear layers")
    return translate("the model has dropout outside of the adapter") if drops else ""


class MixedFinetune:
    """The base of several runs with the adapters of all; runs may join and leave."""

    def __init__(self, base: nn.Module, recompute: str):
        self.mix = Mix()
        self.model = SupervisedFinetune(share(base), frozen=True, use_activation_checkpointing=recompute)
        self.model.train()
        self._layers: dict[str, MixedLinear] = {}

    def add(self, owner: str, model: Any) -> None:
        """Let the rows of `owner` go through the adapter of `model` from now on."""
        for name, layer in base_model(model.llm).named_modules():
            if not is_lora(layer):
                continue
            if name not in self._layers:
                parent, _, last = name.rpartition(".")
                place = self.model.llm.get_submodule(parent)
                self._layers[name] = MixedLinear(getattr(place, last), self.mix)
                setattr(place, last, self._layers[name])
            self._layers[name].layers[owner] = layer

    def remove(self, owner: str) -> None:
        """Forget the adapter of `owner`."""
        for layer in self._layers.values():
            layer.layers.pop(owner, None)

    def losses(self, shares: Sequence[Share]) -> list[Tensor]:
        """The loss of each run, for one backward pass of their sum, after which `done` is called."""
        packed = [pack(dict(one.data), self.model.device) for one in shares]
        lengths = [rounded(len(one.input_ids)) for one in packed]
        starts = [0, *itertools.accumulate(lengths)]
        self.mix.segments = [
            Segment(one.owner, slice(start, start + length), one.random)
            for one, start, length in zip(shares, starts, lengths, strict=False)
        ]
        (whole,) = self.model.passes_of(_joined(packed, starts), with_loss=True)
        parts = self.model.head_apart()
        assert parts is not None, "why_apart was asked"
        decoder, head = parts
        hidden, targets = self.model.hidden_with_loss([whole], decoder)
        counts = [len(one.targets) for one in packed]
        return [
            head_cross_entropy_sum(h, head, t) / one.num_items
            for one, h, t in zip(shares, hidden.split(counts), targets.split(counts), strict=True)
        ]

    def done(self) -> None:
        """Forget the batch."""
        self.mix.segments = ()


def _joined(packed: Sequence[Packed], starts: Sequence[int]) -> Packed:
    """Batches one after the other from `starts`; padding between them is a sample without labels."""
    ids: list[Tensor] = []
    boundaries = [0]
    for one, start, end in zip(packed, starts, starts[1:], strict=False):
        missing = end - start - len(one.input_ids)
        ids += [one.input_ids, one.input_ids.new_zeros(missing)]
        boundaries += [start + b for b in one.boundaries[1:]]
        if missing:
            boundaries.append(end)
    positions = [one.positions + start for one, start in zip(packed, starts, strict=False)]
    return Packed(
        torch.cat(ids), boundaries, np.concatenate(positions), np.concatenate([p.targets for p in packed])
    )
