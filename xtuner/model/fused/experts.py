"""Experts packed into one parameter: products of each expert's tokens, and of its adapters.

    rows       tokens sorted by expert           a a a | b | c c          k rows for each token
    product    x @ W[e] + (x @ A[e]) @ B[e]      of each expert's rows; W + B A and its gradient never exist
    gate_up -> the family's gating -> down -> rows back to tokens, times the router's weights

peft forms W + B A of all experts in every forward pass, keeps it for backward and makes its whole gradient.
transformers multiplies in the precision of W, autocast or not: experts with fp32 weights train in fp32 there.
For classes with transformers' interface of experts (transformers/integrations/moe.py), which says of each how
its weights lie and how it gates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from xtuner.model.foreign import is_proven
from xtuner.model.fused.linear import compute_dtype, is_lora


@dataclass(frozen=True)
class LowRank:
    """The adapter of a packed parameter: `a [E, rank, in]`, `b [E, out, rank]`."""

    a: Tensor
    b: Tensor
    scaling: float


def is_on_parameter(module: nn.Module) -> bool:
    """Whether `module` is peft's adapter of a parameter; those of one module are nested."""
    return is_lora(module) and hasattr(module, "parameter_name")


def are_proven() -> bool:
    """Whether transformers' interface is the one that this was proven against."""
    from transformers.integrations import moe

    cost = "experts train as they are, to the same result, with several times the memory"
    return all(is_proven(code, cost) for code in (moe.use_experts_implementation, moe._default_apply_gate))


def are_adapters_proven(kind: Any) -> bool:
    """The same of peft's class `kind` too."""
    cost = "adapters of experts run as peft has them, to the same result, with several times the memory"
    return all(is_proven(code, cost) for code in (kind, kind.get_delta_weight)) and are_proven()


def is_experts(module: Any) -> bool:
    """Whether `module` has transformers' interface of experts, without an adapter of its own."""
    return not is_lora(module) and _is_known(module)


def beats_transformers(base: Any, x: Tensor) -> bool:
    """Whether experts without an adapter train in fewer bits here, or by one kernel for all experts."""
    kind = compute_dtype(x)
    on_cpu = x.device.type == "cpu"
    return kind != base.down_proj.dtype if on_cpu else _kernel(x.device, kind) is not None


def adapted_experts(module: Any) -> dict[str, LowRank] | None:
    """The adapters around an experts module; None where that is more than plain LoRA on known experts."""
    base = module.get_base_layer()
    if not _is_known(base) or any(p.requires_grad for p in base.parameters()):
        return None
    found: dict[str, LowRank] = {}
    while is_on_parameter(module):
        adapter = _low_rank(module)
        if adapter is None:
            return None
        found[module.parameter_name] = adapter
        module = module.base_layer
    return found


def _is_known(base: Any) -> bool:
    needed = ("has_gate", "has_bias", "is_transposed", "_apply_gate", "down_proj")
    is_parallel = getattr(base, "_is_expert_parallel", False)  # transformers 5.18
    return all(hasattr(base, name) for name in needed) and not is_parallel


def _low_rank(module: Any) -> LowRank | None:
    """One wrapper's adapter; None where peft does something else with it just now."""
    if module.disable_adapters or module.merged or len(module.active_adapters) != 1:
        return None
    name = module.active_adapters[0]
    # Else A is over the outputs, as peft 0.19 lays it.
    if name not in module.lora_A or module._did_swap_in_out_features == module.get_base_layer().is_transposed:
        return None
    a, b = module.lora_A[name].weight, module.lora_B[name].weight
    count = module.num_experts
    a = a.view(count, -1, a.shape[1])
    return LowRank(a, b.view(len(b), -1, count).permute(2, 0, 1), module.scaling[name])


def experts(base: Any, adapters: dict[str, LowRank], x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """What `base` returns for `x [N, h]`, the experts `chosen [N, k]` and the router's `weights [N, k]`."""
    x_dtype, kind = x.dtype, compute_dtype(x)
    order = chosen.flatten().argsort(stable=True)
    expert_of = chosen.flatten()[order]
    # Not by bincount, for whose length the host waits.
    firsts = torch.searchsorted(expert_of, torch.arange(base.num_experts + 1, device=expert_of.device))
    counts = firsts.diff()
    rows = x.to(kind)[order // chosen.shape[1]]
    first = "gate_up_proj" if base.has_gate else "up_proj"
    hidden = _product(base, first, adapters, rows, counts, expert_of)
    hidden = base._apply_gate(hidden) if base.has_gate else base.act_fn(hidden)
    out = _product(base, "down_proj", adapters, hidden, counts, expert_of)
    if getattr(base, "has_post_expert_norm", False):  # transformers 5.20
        out = base.post_expert_norm(out)
    out = out * weights.flatten()[order, None]
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    return out[back].view(*chosen.shape, -1).sum(1).to(x_dtype)


def _product(
    base: Any, name: str, adapters: dict[str, LowRank], x: Tensor, counts: Tensor, expert_of: Tensor
) -> Tensor:
    """`x [rows, in]`, sorted by expert, times the experts' matrices `name`, with their biases."""
    weight = getattr(base, name).to(x.dtype)
    weight = weight if base.is_transposed else weight.transpose(1, 2)
    adapter = adapters.get(name)
    a = b = None
    if adapter is not None:
        a = adapter.a.to(x.dtype).transpose(1, 2)
        b = (adapter.b * adapter.scaling).to(x.dtype).contiguous().transpose(1, 2)
    y = grouped(x, counts, weight, a, b)
    return y + getattr(base, f"{name}_bias")[expert_of].to(x.dtype) if base.has_bias else y


def grouped(x: Tensor, counts: Tensor, weights: Tensor, a: Tensor | None, b: Tensor | None) -> Tensor:
    """`x @ weights[e] + x @ a[e] @ b[e]` of rows in groups of `counts [E]`; `weights [E, in, out]`."""
    kernel = _kernel(x.device, x.dtype)
    # The kernel reads rows of a multiple of 16 bytes.
    if kernel is not None and (a is None or a.shape[2] % 8 == 0):
        ends = counts.cumsum(0, dtype=torch.int32)
        y = kernel(x, weights, offs=ends)
        return y if a is None else y + kernel(kernel(x, a, offs=ends), b, offs=ends)
    found = []
    # Unbound, so that gradients are put together once and not for each expert.
    pairs = (
        zip(a.unbind(), b.unbind(), strict=True) if a is not None and b is not None else [None] * len(counts)
    )
    for part, weight, pair in zip(x.split(counts.tolist()), weights.unbind(), pairs, strict=True):
        if len(part):
            y = part @ weight
            found.append(y if pair is None else torch.addmm(y, part @ pair[0], pair[1]))
    return torch.cat(found)


def _kernel(device: torch.device, dtype: torch.dtype) -> Callable[..., Tensor] | None:
    """torch's product of groups of rows, if it is one kernel on `device`."""
    if device.type != "cuda" or dtype != torch.bfloat16 or torch.cuda.get_device_capability(device) < (8, 0):
        return None
    return getattr(functional, "grouped_mm", None)  # torch 2.10
