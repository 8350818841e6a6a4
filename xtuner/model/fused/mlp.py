"""The gated feed-forward block: down(silu(gate(x)) * up(x)).

Kept for backward: x, gate and up. The product is computed again (Chen et al. 2016's trade, arXiv 1604.06174,
at its cheapest place), with LoRA on all three layers as one function. Where memory is shortest, that function
runs by tiles of rows (Bekman et al. 2025, arXiv 2506.13996): gate and up are as wide as a layer gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from xtuner.model import kernels
from xtuner.model.fused.linear import (
    Group,
    KernelGroup,
    Saved,
    adapted,
    compute_dtype,
    frozen_weight,
    group_of,
    in_one_dtype,
    linear_onto,
    lora_linears,
)

# Of gate and up, and of down.
Groups = tuple[Group, Group]


def silu_backward(dy: Tensor, x: Tensor) -> Tensor:
    """Gradient of `silu(x)`, in one kernel."""
    return torch.ops.aten.silu_backward(dy, x)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return silu_backward(dy * up, gate), silu(gate).mul_(dy)


class _KernelSwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        from xtuner.model.kernels.gated import silu_product

        ctx.save_for_backward(gate, up)
        return silu_product(gate, up, 0.0, 0)[0]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        from xtuner.model.kernels.gated import silu_product_backward

        return silu_product_backward(dy, *ctx.saved_tensors)


class _LoraMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor | None, groups: Groups, *adapters: Tensor) -> Tensor:
        cast = x.to(compute_dtype(x))
        y, kept = _forward(cast, groups, adapters, residual)
        ctx.groups, ctx.dtype, ctx.dtypes = groups, x.dtype, [w.dtype for w in adapters]
        ctx.save_for_backward(cast, *kept)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, *kept = ctx.saved_tensors
        dx, grads = _backward(dy.to(x.dtype), x, kept, ctx.groups, ctx.needs_input_grad[0])
        grads = [g.to(t) for g, t in zip(grads, ctx.dtypes, strict=True)]
        d_residual = dy if ctx.needs_input_grad[1] else None
        return None if dx is None else dx.to(ctx.dtype), d_residual, None, *grads


class _TiledLoraMlp(torch.autograd.Function):
    """As _LoraMlp by tiles of rows: x alone is kept, and gate and up exist for one tile at a time."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor | None, tiles: list[Groups], *adapters: Tensor
    ) -> Tensor:
        cast, count = x.to(compute_dtype(x)), len(tiles)
        residuals = [None] * count if residual is None else residual.tensor_split(count)
        parts = zip(cast.tensor_split(count), residuals, tiles, strict=True)
        y = torch.cat([_forward(part, groups, adapters, beside)[0] for part, beside, groups in parts])
        ctx.tiles, ctx.dtype = tiles, x.dtype
        ctx.save_for_backward(cast, *adapters)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, *adapters = ctx.saved_tensors
        count, needs_dx = len(ctx.tiles), ctx.needs_input_grad[0]
        d_residual = dy if ctx.needs_input_grad[1] else None
        dy = dy.to(x.dtype)
        dx = torch.empty_like(x) if needs_dx else None
        sums = [torch.zeros_like(w, dtype=torch.promote_types(w.dtype, torch.float32)) for w in adapters]
        d_parts = [None] * count if dx is None else dx.tensor_split(count)
        for part, d_y, d_x, groups in zip(
            x.tensor_split(count), dy.tensor_split(count), d_parts, ctx.tiles, strict=True
        ):
            found, grads = _backward(d_y, part, _forward(part, groups, adapters)[1], groups, needs_dx)
            if d_x is not None and found is not None:
                d_x.copy_(found)
            for total, grad in zip(sums, grads, strict=True):
                total += grad
        grads = [g.to(w.dtype) for g, w in zip(sums, adapters, strict=True)]
        return None if dx is None else dx.to(ctx.dtype), d_residual, None, *grads


def _forward(
    x: Tensor, groups: Groups, adapters: Sequence[Tensor], residual: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """The block's output for `x [N, k]`, plus `residual`, and what backward needs beside it."""
    first, second = groups
    (gate, up), kept = first.forward(x, adapters[:4])
    if isinstance(second, KernelGroup):
        from xtuner.model.kernels.gated import silu_product

        h, dropped = silu_product(gate, up, second.rate, second.seed)
        (y,), kept_down = second.forward(h, adapters[4:], residual, dropped if second.rate else h)
    else:
        (y,), kept_down = second.forward(silu(gate).mul_(up), adapters[4:])
    return y, [gate, up, kept.hidden, kept.a, *kept.bs, kept_down.hidden, kept_down.a, *kept_down.bs]


def _backward(
    dy: Tensor, x: Tensor, kept: Sequence[Tensor], groups: Groups, needs_dx: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """Gradients of `x` and of all adapters in turn."""
    gate, up, hidden, a, b_gate, b_up, hidden_down, a_down, b_down = kept
    first, second = groups
    down = Saved(hidden_down, a_down, [b_down])
    d_inner = _through_down_by_kernel if isinstance(second, KernelGroup) else _through_down
    d_gate_up, grads_down = d_inner(dy, gate, up, down, second)  # type: ignore[arg-type]
    dx, grads = first.backward(x, Saved(hidden, a, [b_gate, b_up]), d_gate_up, needs_dx)
    return dx, [*grads, *grads_down]


def _through_down(
    dy: Tensor, gate: Tensor, up: Tensor, saved: Saved, down: Group
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of `gate` and `up`, and of the adapter of `down`."""
    active = silu(gate)
    dh, grads = down.backward(active * up, saved, [dy], True)
    assert dh is not None
    d_up = active.mul_(dh)
    return [silu_backward(dh.mul_(up), gate), d_up], grads


def _through_down_by_kernel(
    dy: Tensor, gate: Tensor, up: Tensor, saved: Saved, down: KernelGroup
) -> tuple[list[Tensor], list[Tensor]]:
    """The same; the kernel masks the adapter's part of the gradient and makes the product again."""
    from xtuner.model.kernels.gated import dropped_silu_product_backward_

    d_hidden, weight = down.d_hidden(saved, [dy]), frozen_weight(down.bases[0], dy.dtype)
    if down.rate:
        dh, low = dy @ weight, d_hidden @ saved.a
    else:
        dh = (d_hidden @ saved.a).addmm_(dy, weight)
        low = torch.empty_like(dh)
    del weight
    dropped = dropped_silu_product_backward_(dh, low, gate, up, down.rate, down.seed)
    return [dh, low], down.adapter_grads(dropped, saved, [dy], d_hidden)


def gated_mlp(
    x: Tensor,
    gate: nn.Module,
    up: nn.Module,
    down: nn.Module,
    tile: int | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """`down(silu(gate(x)) * up(x))`, as one function where all three have plain LoRA adapters.

    `tile`: that function takes so many rows at a time and computes them again in backward. `residual` is
    added.
    """
    layers: list[Any] = [adapted(m) for m in (gate, up, down)]
    if None in layers or layers[0].dropout != layers[1].dropout:
        parts = in_one_dtype(*lora_linears(x, (gate, up)))
        gated = (_KernelSwiGLU if kernels.available(parts[0]) else _SwiGLU).apply(*parts)
        return lora_linears(gated, (down,))[0] if residual is None else linear_onto(residual, gated, down)
    adapters = [w for layer in layers for w in (layer.a, layer.b)]
    flat = x.reshape(-1, x.shape[-1])
    tiles = 1 if tile is None else -(-len(flat) // tile)
    groups = [(group_of(tuple(layers[:2]), x), group_of((layers[2],), x)) for _ in range(tiles)]
    joins = residual is not None and kernels.available(x) and residual.dtype == compute_dtype(x)
    beside = residual.reshape(-1, residual.shape[-1]) if residual is not None and joins else None
    if len(groups) > 1:
        y = _TiledLoraMlp.apply(flat, beside, groups, *adapters)
    else:
        y = _LoraMlp.apply(flat, beside, groups[0], *adapters)
    y = y.view(*x.shape[:-1], -1)
    return y if residual is None or joins else residual + y
