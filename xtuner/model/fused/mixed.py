"""Linear layers with the adapters of several runs, each for its own rows of a mixed batch.

    x [N, k]  rows of run 1  ──┬─ W ── + ── y       W is multiplied, and dequantised, once for all rows
              rows of run 2  ──┤       │            rows of run 1 go through its A and B, with its dropout,
              rows of run 3  ──┴─ A_i ─ B_i         rows of run 2 through its own, ...

A run's rows get what the run alone computes for them: its layers form the same groups, and its dropout masks
come from its own random numbers in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from xtuner.model.fused.dropout import new_seed
from xtuner.model.fused.linear import (
    Adapted,
    Group,
    Joint,
    Saved,
    adapted,
    base_forward,
    compute_dtype,
    frozen_weight,
    group_of,
)


@dataclass
class Segment:
    """The rows of one run in a mixed batch, and its random numbers.

    `seeds`: those that were drawn for its layers, for those that are computed again in backward.
    """

    owner: str
    rows: slice
    random: torch.Generator
    seeds: dict[tuple[int, ...], int] = field(default_factory=dict)

    def seed(self, layers: tuple[Adapted, ...]) -> int:
        """The seed of the dropout masks of `layers` in this batch."""
        key = tuple(id(layer.a) for layer in layers)
        if key not in self.seeds:
            self.seeds[key] = new_seed(self.random)
        return self.seeds[key]


@dataclass
class Mix:
    """What all layers of a mixed model share: the segments of the batch that it computes just now."""

    segments: Sequence[Segment] = ()


class MixedLinear(Joint):
    """A frozen linear layer, and the LoRA layers of peft that the runs have in its place."""

    def __init__(self, base: nn.Module, mix: Mix):
        super().__init__()
        self.base = base
        self.mix = mix
        # A dict, so that the layers stay modules of their runs alone.
        self.layers: dict[str, nn.Module] = {}

    @property
    def weight(self) -> Tensor:
        """That of the frozen layer, for code that asks for its dtype."""
        return self.base.weight  # type: ignore[return-value]

    def together(self, x: Tensor, modules: tuple[nn.Module, ...]) -> tuple[Tensor, ...]:
        parts, adapters = [], []
        for segment in self.mix.segments:
            for outputs, layers in _groups(segment.owner, modules):
                group = group_of(layers, x, _drawing(segment, layers))
                parts.append(_Part(segment.rows, outputs, group))
                adapters += [w for layer in layers for w in (layer.a, layer.b)]
        bases = tuple(m.base if isinstance(m, MixedLinear) else m for m in modules)
        ys = _MixedLinears.apply(x.reshape(-1, x.shape[-1]), bases, tuple(parts), *adapters)
        return tuple(y.view(*x.shape[:-1], -1) for y in ys)


def _drawing(segment: Segment, layers: tuple[Adapted, ...]) -> Callable[[], int]:
    return lambda: segment.seed(layers)


def _groups(owner: str, modules: Sequence[nn.Module]) -> list[tuple[tuple[int, ...], tuple[Adapted, ...]]]:
    """The layers of a run in `modules` that share a dropout mask, with their places; as `lora_linears`."""
    found: list[tuple[int, Adapted]] = []
    for place, module in enumerate(modules):
        own = module.layers.get(owner) if isinstance(module, MixedLinear) else None
        layer = None if own is None else adapted(own)
        assert own is None or layer is not None, "only plain LoRA layers are mixed"
        if layer is not None:
            found.append((place, layer))
    if len(found) == len(modules) and len({layer.dropout for _, layer in found}) == 1:
        return [(tuple(range(len(modules))), tuple(layer for _, layer in found))]
    return [((place,), (layer,)) for place, layer in found]


@dataclass(frozen=True)
class _Part:
    """The adapters of one run on some of the layers; `outputs` are the places of these."""

    rows: slice
    outputs: tuple[int, ...]
    group: Group


class _MixedLinears(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bases: tuple[Any, ...], parts: tuple[_Part, ...], *adapters: Tensor
    ) -> tuple[Tensor, ...]:
        cast = x.to(compute_dtype(x))
        ys = [base_forward(base, cast) for base in bases]
        kept: list[Tensor] = []
        rest = iter(adapters)
        for part in parts:
            own = [next(rest) for _ in range(2 * len(part.outputs))]
            saved = part.group.narrow(cast[part.rows], own)
            for place, h, b in zip(
                part.outputs, saved.hidden.split(part.group.ranks, 1), saved.bs, strict=True
            ):
                ys[place][part.rows].addmm_(h, b.T)
            kept += [saved.hidden, saved.a, *saved.bs]
        ctx.bases, ctx.parts, ctx.dtype = bases, parts, x.dtype
        ctx.dtypes = [w.dtype for w in adapters]
        ctx.save_for_backward(cast, *kept)
        return tuple(ys)

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> tuple[Tensor | None, ...]:
        x, *rest = ctx.saved_tensors
        kept = iter(rest)
        dys_ = [dy.to(x.dtype) for dy in dys]
        needs_dx, dx = ctx.needs_input_grad[0], None
        for dy, base in zip(dys_ if needs_dx else (), ctx.bases, strict=needs_dx):
            weight = frozen_weight(base, dy.dtype)
            dx = dy @ weight if dx is None else dx.addmm_(dy, weight)
        grads: list[Tensor] = []
        for part in ctx.parts:
            hidden, a = next(kept), next(kept)
            saved = Saved(hidden, a, [next(kept) for _ in part.outputs])
            own = [dys_[place][part.rows] for place in part.outputs]
            narrow, found = part.group.narrow_backward(x[part.rows], saved, own, needs_dx)
            if dx is not None and narrow is not None:
                dx[part.rows].add_(narrow)
            grads += found
        grads = [g.to(dtype) for g, dtype in zip(grads, ctx.dtypes, strict=True)]
        return None if dx is None else dx.to(ctx.dtype), None, None, *grads
