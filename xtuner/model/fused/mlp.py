"""The gated feed-forward block: down(silu(gate(x)) * up(x)).

Kept for backward: x, gate and up. The product is computed again (Chen et al. 2016's trade, arXiv 1604.06174,
at its cheapest place), with LoRA on all three layers as one function.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from xtuner.model.fused.linear import Group, Saved, adapted, compute_dtype, lora_linears


def silu_backward(dy: Tensor, x: Tensor) -> Tensor:
    """Gradient of `silu(x)`, in one kernel."""
    return torch.ops.aten.silu_backward(dy, x)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return silu_backward(dy * up, gate), silu(gate).mul_(dy)


class _LoraMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, first: Group, second: Group, *adapters: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).to(compute_dtype(x))
        (gate, up), kept = first.forward(flat, adapters[:4])
        (y,), kept_down = second.forward(silu(gate).mul_(up), adapters[4:])
        ctx.groups, ctx.x_like, ctx.dtypes = (first, second), (x.shape, x.dtype), [w.dtype for w in adapters]
        ctx.save_for_backward(
            flat, gate, up, kept.hidden, kept.a, *kept.bs, kept_down.hidden, kept_down.a, *kept_down.bs
        )
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, gate, up, hidden, a, b_gate, b_up, hidden_down, a_down, b_down = ctx.saved_tensors
        first, second = ctx.groups
        active = silu(gate)
        dy = dy.reshape(len(x), -1).to(x.dtype)
        dh, grads_down = second.backward(active * up, Saved(hidden_down, a_down, [b_down]), [dy], True)
        assert dh is not None
        d_up = active.mul_(dh)
        d_gate = silu_backward(dh.mul_(up), gate)
        dx, grads = first.backward(
            x, Saved(hidden, a, [b_gate, b_up]), [d_gate, d_up], ctx.needs_input_grad[0]
        )
        shape, dtype = ctx.x_like
        all_grads = [g.to(t) for g, t in zip([*grads, *grads_down], ctx.dtypes, strict=True)]
        return None if dx is None else dx.view(shape).to(dtype), None, None, *all_grads


def gated_mlp(x: Tensor, gate: nn.Module, up: nn.Module, down: nn.Module) -> Tensor:
    """`down(silu(gate(x)) * up(x))`, as one function where all three have plain LoRA adapters."""
    layers: list[Any] = [adapted(m) for m in (gate, up, down)]
    if None not in layers and layers[0].dropout == layers[1].dropout:
        adapters = [w for layer in layers for w in (layer.a, layer.b)]
        return _LoraMlp.apply(x, Group(tuple(layers[:2])), Group((layers[2],)), *adapters)
    gated = _SwiGLU.apply(*lora_linears(x, (gate, up)))
    return lora_linears(gated, (down,))[0]
