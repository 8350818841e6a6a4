"""Linear layers of one input, each frozen and with a LoRA adapter, as one step forward and one back.

    x [N, k] ──┬─ W_q ─────────── + ── q        H   = drop(x) @ [A_q; A_k; A_v].T    [N, 3 r]
               ├─ W_k ─────────── + ── k        q   = x @ W_q.T + H_q @ (s B_q).T
               ├─ W_v ─────────── + ── v
               └─ drop ─ A ─ B ───┘             one dropout mask for all layers that share x

Kept for backward: x once, H, the seed of the dropout mask. The gradient of W is never formed, the mask is
drawn again from its seed, a quantised W is dequantised again. After Hu et al. 2021 (arXiv 2106.09685) and
Han et al.'s manual LoRA backward in Unsloth.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from xtuner.model import kernels
from xtuner.model.foreign import is_proven
from xtuner.model.fused.dropout import kept, masked, new_seed

_LORA = {
    "peft.tuners.lora.layer.Linear",
    "peft.tuners.lora.bnb.Linear4bit",
    "peft.tuners.lora.bnb.Linear8bitLt",
}
_COST = "adapters run as peft has them, to the same result, with more time and memory"


@dataclass(frozen=True)
class Adapted:
    """One linear layer: its frozen base, its adapter, `scaling` as peft has it and the dropout rate."""

    base: nn.Module
    a: Tensor
    b: Tensor
    scaling: float
    dropout: float


def is_lora(module: nn.Module) -> TypeGuard[Any]:
    """Whether `module` is a LoRA layer of peft."""
    if not hasattr(module, "lora_A"):
        return False  # and peft, with all that it imports, may not even be loaded
    from peft.tuners.lora import LoraLayer

    return isinstance(module, LoraLayer)


def is_proven_lora(kind: type) -> bool:
    """Whether this class of peft's is one that the functions here were proven against."""
    return f"{kind.__module__}.{kind.__qualname__}" in _LORA and is_proven(kind, _COST)


def adapted(module: nn.Module) -> Adapted | None:
    """What peft's LoRA layer `module` computes just now; None where that is more than plain LoRA."""
    if not is_lora(module) or not is_proven_lora(type(module)) or not _is_frozen_linear(module.base_layer):
        return None
    if module.disable_adapters or module.merged or len(module.active_adapters) != 1:
        return None
    name = module.active_adapters[0]
    if name not in module.lora_A or name in module.lora_variant or getattr(module, "fan_in_fan_out", False):
        return None
    dropout = module.lora_dropout[name]
    rate = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
    if not isinstance(dropout, (nn.Dropout, nn.Identity)) or rate >= 1:
        return None
    a, b = module.lora_A[name], module.lora_B[name]
    if type(a) is not nn.Linear or type(b) is not nn.Linear or a.bias is not None or b.bias is not None:
        return None
    return Adapted(module.base_layer, a.weight, b.weight, module.scaling[name], rate)


def _is_frozen_linear(base: nn.Module) -> bool:
    if any(p.requires_grad for p in base.parameters()):
        return False
    if type(base) is nn.Linear:
        return True
    return _quantised_bits(base) is not None and is_proven(type(base), _COST)


def _quantised_bits(base: nn.Module) -> int | None:
    """4 or 8 for a layer of bitsandbytes, by its class's name so that the package stays optional."""
    kind = type(base)
    if not kind.__module__.startswith("bitsandbytes"):
        return None
    return {"Linear4bit": 4, "Linear8bitLt": 8}.get(kind.__name__)


def frozen_weight(base: Any, dtype: torch.dtype) -> Tensor:
    """The weight `[out, in]` of a plain, 4-bit or 8-bit linear layer, in `dtype`."""
    bits = _quantised_bits(base)
    if bits is None:
        return base.weight.to(dtype)
    if bits == 4:
        # FSDP makes another parameter of the weight; the layer keeps what the codes mean.
        return _from_4_bits(
            base.weight.data, getattr(base.weight, "quant_state", None) or base.quant_state, dtype
        )
    state = base.state
    codes, scale = (base.weight.CB, base.weight.SCB) if state.CB is None else (state.CB, state.SCB)
    return codes.to(dtype).mul_(scale.unsqueeze(1).mul(1 / 127).to(dtype))


def _from_4_bits(codes: Tensor, state: Any, dtype: torch.dtype) -> Tensor:
    is_whole = 2 * codes.numel() * codes.itemsize == math.prod(state.shape)
    if state.nested and state.dtype == dtype and is_whole and kernels.available(codes):
        from xtuner.model.kernels.four_bits import dequantize_nested

        inner = state.state2
        return dequantize_nested(
            codes, state.code, state.absmax, inner.code, inner.absmax, state.offset,
            state.blocksize, inner.blocksize, state.shape, dtype,
        )  # fmt: skip
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(codes, state).to(dtype)


def base_forward(base: Any, x: Tensor) -> Tensor:
    """The output of a plain, 4-bit or 8-bit linear layer for `x [N, k]`."""
    if _quantised_bits(base) == 8:  # outliers in x are multiplied apart
        return base(x)
    return linear(x, frozen_weight(base, x.dtype), _bias(base, x.dtype))


def _bias(base: Any, dtype: torch.dtype) -> Tensor | None:
    return None if base.bias is None else base.bias.to(dtype)


def compute_dtype(*inputs: Tensor) -> torch.dtype:
    """The dtype that torch computes a product of `inputs` in: autocast's, else one that holds all of them."""
    return functools.reduce(torch.promote_types, map(_autocast_dtype, inputs))


def in_one_dtype(*inputs: Tensor) -> tuple[Tensor, ...]:
    """`inputs` in the dtype that a product of them is computed in."""
    dtype = compute_dtype(*inputs)
    return tuple(x.to(dtype) for x in inputs)


def _autocast_dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    if kind == "meta":  # which torch has no autocast for
        return x.dtype
    lowered = torch.is_autocast_enabled(kind) and x.dtype != torch.float64  # which autocast leaves alone
    return torch.get_autocast_dtype(kind) if lowered else x.dtype


@dataclass
class Saved:
    """What a group's backward needs beside its input."""

    hidden: Tensor  # drop(x) @ A.T, [N, sum of ranks]; in a KernelGroup this is scaled
    a: Tensor  # [sum of ranks, k]
    bs: list[Tensor]  # [out, rank] each; scaled in a Group


class Group:
    """Layers that share an input; `forward` and `backward` are plain functions of tensors."""

    def __init__(self, layers: tuple[Adapted, ...], draw_seed: Callable[[], int] = new_seed):
        self.bases = tuple(layer.base for layer in layers)
        self.rate = layers[0].dropout
        # What dropout keeps is scaled up once, here.
        self.scales = tuple(layer.scaling / (1 - self.rate) for layer in layers)
        self.ranks = [len(layer.a) for layer in layers]
        self.seed = draw_seed() if self.rate else 0

    def narrow(self, x: Tensor, adapters: Sequence[Tensor]) -> Saved:
        """The adapters' part for `x [N, k]`, which adds `hidden @ b.T` to each layer's output."""
        a = torch.cat([w.to(x.dtype) for w in adapters[::2]])
        bs = [(w * scale).to(x.dtype) for w, scale in zip(adapters[1::2], self.scales, strict=True)]
        hidden = (masked(x, kept(x, self.rate, self.seed)) if self.rate else x) @ a.T
        return Saved(hidden, a, bs)

    def forward(self, x: Tensor, adapters: Sequence[Tensor]) -> tuple[list[Tensor], Saved]:
        """Outputs of all layers for `x [N, k]`; `adapters` are A and B of each in turn."""
        saved = self.narrow(x, adapters)
        parts = zip(self.bases, saved.hidden.split(self.ranks, dim=1), saved.bs, strict=True)
        return [base_forward(base, x).addmm_(h, b.T) for base, h, b in parts], saved

    def backward(
        self, x: Tensor, saved: Saved, dys: Sequence[Tensor], needs_dx: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients of `x` and of all adapters in turn."""
        dx, grads = self.narrow_backward(x, saved, dys, needs_dx)
        if dx is not None:
            for dy, base in zip(dys, self.bases, strict=True):
                dx.addmm_(dy, frozen_weight(base, dy.dtype))
        return dx, grads

    def narrow_backward(
        self, x: Tensor, saved: Saved, dys: Sequence[Tensor], needs_dx: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """As `backward`, without the part of the frozen layers in the gradient of `x`."""
        parts = saved.hidden.split(self.ranks, dim=1)
        d_hidden = torch.cat([dy @ b for dy, b in zip(dys, saved.bs, strict=True)], dim=1)
        mask = kept(x, self.rate, self.seed) if self.rate else None
        d_a = d_hidden.T @ (x if mask is None else masked(x, mask))
        wide = torch.promote_types(x.dtype, torch.float32)
        d_bs = [(dy.T @ h).to(wide).mul_(scale) for dy, h, scale in zip(dys, parts, self.scales, strict=True)]
        grads = [g for pair in zip(d_a.split(self.ranks), d_bs, strict=True) for g in pair]
        if not needs_dx:
            return None, grads
        dx = d_hidden @ saved.a
        if mask is not None:
            dx.view(mask.dtype).mul_(mask)
        return dx, grads


class KernelGroup(Group):
    """The same on a GPU: kernels draw the masks, adapters are cast at once, products take the factors."""

    def narrow(self, x: Tensor, adapters: Sequence[Tensor], dropped: Tensor | None = None) -> Saved:
        """As Group's; `dropped` is `x` after dropout, where it is at hand."""
        a, bs = self._cast(adapters, x.dtype)
        return Saved(self._scaled(self.drop(x) if dropped is None else dropped, a), a, bs)

    def forward(
        self,
        x: Tensor,
        adapters: Sequence[Tensor],
        residual: Tensor | None = None,
        dropped: Tensor | None = None,
    ) -> tuple[list[Tensor], Saved]:
        """As Group's, plus `residual`; `dropped` as for `narrow`."""
        saved = self.narrow(x, adapters, dropped)
        parts = zip(self.bases, saved.hidden.split(self.ranks, 1), saved.bs, strict=True)
        return [_onto(h, b.T, base, x, residual) for base, h, b in parts], saved

    def _scaled(self, dropped: Tensor, a: Tensor) -> Tensor:
        """`dropped @ a.T`, each layer's part times its factor."""
        if len(set(self.scales)) == 1:
            hidden = dropped.new_empty(len(dropped), len(a))
            return torch.addmm(hidden, dropped, a.T, beta=0, alpha=self.scales[0], out=hidden)
        hidden = dropped @ a.T
        for part, scale in zip(hidden.split(self.ranks, 1), self.scales, strict=True):
            part.mul_(scale)
        return hidden

    def _cast(self, adapters: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
        """All A in one matrix and each B, in `dtype`."""
        first, *_ = adapters
        a = first.new_empty((sum(self.ranks), first.shape[1]), dtype=dtype)
        bs = [torch.empty_like(b, dtype=dtype) for b in adapters[1::2]]
        torch._foreach_copy_([*a.split(self.ranks), *bs], [*adapters[::2], *adapters[1::2]])
        return a, bs

    def drop(self, x: Tensor) -> Tensor:
        """`x` after dropout, not scaled up."""
        from xtuner.model.kernels.dropout import masked

        return masked(x, self.rate, self.seed) if self.rate else x

    def narrow_backward(
        self, x: Tensor, saved: Saved, dys: Sequence[Tensor], needs_dx: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        from xtuner.model.kernels.dropout import mask_

        d_hidden = self.d_hidden(saved, dys)
        grads = self.adapter_grads(self.drop(x), saved, dys, d_hidden)
        if not needs_dx:
            return None, grads
        dx = d_hidden @ saved.a
        if self.rate:
            mask_(dx, self.rate, self.seed)
        return dx, grads

    def d_hidden(self, saved: Saved, dys: Sequence[Tensor]) -> Tensor:
        """The gradient of what `saved.hidden` is before it is scaled."""
        found = torch.empty_like(saved.hidden)
        for part, dy, b, scale in zip(found.split(self.ranks, 1), dys, saved.bs, self.scales, strict=True):
            torch.addmm(part, dy, b, beta=0, alpha=scale, out=part)
        return found

    def adapter_grads(
        self, dropped: Tensor, saved: Saved, dys: Sequence[Tensor], d_hidden: Tensor
    ) -> list[Tensor]:
        """Gradients of all adapters in turn, in fp32, from the group's input after dropout."""
        d_a = d_hidden.T @ dropped
        hiddens = saved.hidden.split(self.ranks, 1)
        d_bs = [dy.T @ h for dy, h in zip(dys, hiddens, strict=True)]
        narrow = [g for pair in zip(d_a.split(self.ranks), d_bs, strict=True) for g in pair]
        wide = [torch.empty_like(g, dtype=torch.float32) for g in narrow]
        torch._foreach_copy_(wide, narrow)
        return wide


def _onto(hidden: Tensor, b: Tensor, base: Any, x: Tensor, residual: Tensor | None) -> Tensor:
    """`base(x) + hidden @ b`, plus `residual`.

    The narrow product, which is bound by memory, comes first and only writes: the wide one has time to read.
    """
    is_8_bit = _quantised_bits(base) == 8
    bias = None if is_8_bit else _bias(base, x.dtype)
    first = bias if residual is None else residual
    y = hidden @ b if first is None else torch.addmm(first, hidden, b)
    if is_8_bit:
        return y.add_(base(x))
    y.addmm_(x, frozen_weight(base, x.dtype).T)
    return y if bias is None or residual is None else y.add_(bias)


def group_of(layers: tuple[Adapted, ...], x: Tensor, draw_seed: Callable[[], int] = new_seed) -> Group:
    """The group of `layers`, on the device of `x`."""
    return (KernelGroup if kernels.available(x) else Group)(layers, draw_seed)


class Joint(nn.Module, ABC):
    """A layer that runs with others of the same input by a function of its own."""

    @abstractmethod
    def together(self, x: Tensor, modules: tuple[nn.Module, ...]) -> tuple[Tensor, ...]:
        """What `modules`, of which this is one, return for `x`."""

    def forward(self, x: Tensor) -> Tensor:
        return self.together(x, (self,))[0]


class _LoraLinears(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor | None, group: Group, *adapters: Tensor
    ) -> tuple[Tensor, ...]:
        cast = x.to(compute_dtype(x))
        if isinstance(group, KernelGroup):
            ys, saved = group.forward(cast, adapters, residual)
        else:
            ys, saved = group.forward(cast, adapters)
        ctx.group, ctx.dtype, ctx.dtypes = group, x.dtype, [w.dtype for w in adapters]
        ctx.save_for_backward(cast, saved.hidden, saved.a, *saved.bs)
        return tuple(ys)

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, a, *bs = ctx.saved_tensors
        dys_ = [dy.to(x.dtype) for dy in dys]
        dx, grads = ctx.group.backward(x, Saved(hidden, a, bs), dys_, ctx.needs_input_grad[0])
        grads = [g.to(dtype) for g, dtype in zip(grads, ctx.dtypes, strict=True)]
        d_residual = dys[0] if ctx.needs_input_grad[1] else None
        return None if dx is None else dx.to(ctx.dtype), d_residual, None, *grads


def lora_linears(x: Tensor, modules: tuple[nn.Module, ...]) -> tuple[Tensor, ...]:
    """What `modules`, peft's LoRA layers or others, return for `x`, together where that is possible."""
    joint = next((m for m in modules if isinstance(m, Joint)), None)
    if joint is not None:
        return joint.together(x, modules)
    layers = tuple(layer for m in modules if (layer := adapted(m)) is not None)
    if len(layers) < len(modules) or len({layer.dropout for layer in layers}) > 1:
        return tuple(m(x) for m in modules)
    return _together(x, layers, None)


def _together(x: Tensor, layers: tuple[Adapted, ...], residual: Tensor | None) -> tuple[Tensor, ...]:
    adapters = [w for layer in layers for w in (layer.a, layer.b)]
    # Outside of the function, as nobody may change its views in place, and llama4 adds to an expert's output.
    ys = _LoraLinears.apply(x.reshape(-1, x.shape[-1]), residual, group_of(layers, x), *adapters)
    return tuple(y.view(*x.shape[:-1], -1) for y in ys)


def linear_onto(residual: Tensor, x: Tensor, module: nn.Module) -> Tensor:
    """`residual + module(x)`; on a GPU a product of matrices adds them, where their precision is one."""
    if not kernels.available(x) or residual.dtype != compute_dtype(x):
        return residual + module(x)
    flat = residual.reshape(-1, residual.shape[-1])
    layer = adapted(module)
    if layer is not None:
        return _together(x, (layer,), flat)[0]
    if type(module) is nn.Linear and module.bias is None:
        return torch.addmm(flat, x.reshape(-1, x.shape[-1]), module.weight.T).view_as(residual)
    return residual + module(x)
