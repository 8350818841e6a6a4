"""Which modules of a loaded model run through the fused functions, and their forward passes.

    family's module             while it trains                      else
    LlamaDecoderLayer, kin      on a GPU: norms and products add      its own forward
    LlamaAttention and its kin  q, k, v as one group, rotate          its own forward
    gated MLPs                  one function                          its own forward
    RMS norms                   one function                          its own forward
    experts and their adapters  products on routed tokens             its own forward
    any other LoRA layer        one function                          its own forward

Parameters, names and checkpoints stay as they are: only `forward` of single modules is replaced, of classes
that families.py names, and where the installed class has the forward pass that ours was proven against
(xtuner/model/foreign.py). A module whose forward another library has set is left alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import Tensor, nn

from xtuner.families import FAMILIES, family_of
from xtuner.language import translate
from xtuner.log import say_once
from xtuner.model import kernels
from xtuner.model.foreign import is_proven
from xtuner.model.fused.experts import (
    adapted_experts,
    are_adapters_proven,
    are_proven,
    beats_transformers,
    experts,
    is_experts,
    is_on_parameter,
)
from xtuner.model.fused.linear import (
    adapted,
    compute_dtype,
    is_lora,
    is_proven_lora,
    linear_onto,
    lora_linears,
)
from xtuner.model.fused.mlp import gated_mlp
from xtuner.model.fused.norm import norm_beside, rms_norm
from xtuner.model.fused.rotary import rotate

_FUSED = [family.fused for family in FAMILIES.values() if family.fused is not None]
_ATTENTION = {fused.attention for fused in _FUSED}
_NORMS = {fused.norm for fused in _FUSED}
# Class -> names of its norms, attention and MLP.
_LAYERS = {fused.layer: fused.layer_parts for fused in _FUSED if fused.layer is not None}
# Class -> names of its gate, up and down layers.
_MLPS = {fused.mlp: fused.gated for fused in _FUSED if fused.mlp is not None}
_COST = "it trains as it is, to the same result, with more time and memory"


def fuse(llm: nn.Module) -> int:
    """How many modules of `llm` train through a fused function from now on."""
    count = 0
    inner: set[Any] = set()
    _tell_of_missing(llm)
    for module in llm.modules():
        if is_on_parameter(module):
            forward = None if module in inner else _adapted_experts
            inner.add(module.base_layer)
        else:
            forward = None if module in inner else _function_for(module)
        if forward is not None and _has_own_forward(module) and _is_known(module):
            # A bound method, so that a deep copy of the model is bound to the copy.
            module.forward = MethodType(forward, module)
            count += 1
    return count


def _tell_of_missing(llm: Any) -> None:
    """Say which layers the row of this family names and its model lacks: they may have moved."""
    fused = family_of(llm.config).fused if hasattr(llm, "config") else None
    if fused is None:
        return
    found = {_path(module) for module in llm.modules()}
    for path in (fused.layer, fused.attention, fused.norm, fused.mlp):
        if path is not None and path not in found:
            say_once(
                "No layer of this model is a {path}, as its family's are: {cost}",
                path=path,
                cost=translate(_COST),
            )


def _path(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _function_for(module: Any) -> Callable[..., Any] | None:
    path = _path(module)
    if path in _LAYERS:
        return _layer
    if path in _ATTENTION:
        return _attention
    if path in _MLPS and "SiLU" in type(module.act_fn).__name__:
        return _mlp
    if path in _NORMS:
        return _norm
    if is_lora(module):
        return _linear
    return _experts if is_experts(module) else None


def _is_known(module: nn.Module) -> bool:
    if is_on_parameter(module):
        return are_adapters_proven(type(module))
    if is_experts(module):
        return are_proven()
    if is_lora(module):
        return is_proven_lora(type(module))
    if type(module).__module__.startswith("xtuner."):
        return True
    return is_proven(type(module), _COST)


def _has_own_forward(module: nn.Module) -> bool:
    """Whether no one, or `fuse`, has set a forward of this one module."""
    forward = vars(module).get("forward")
    return forward is None or getattr(forward, "__module__", None) == __name__


def tile(llm: nn.Module, rows: int) -> None:
    """Let gated MLPs with adapters take `rows` rows at a time, and compute them again in backward."""
    module: Any
    for module in llm.modules():
        if _path(module) in _MLPS:
            module.tile_rows = rows


def unfuse(llm: nn.Module) -> None:
    """Give the modules of `llm` that `fuse` changed their own forward back."""
    for module in llm.modules():
        if "forward" in vars(module) and _has_own_forward(module):
            del module.__dict__["forward"]


def _linear(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    layer = None if args or kwargs or not self.training else adapted(self)
    return type(self).forward(self, x, *args, **kwargs) if layer is None else lora_linears(x, (self,))[0]


def _experts(self: Any, *args: Any, **kwargs: Any) -> Any:
    ours = self.training and len(args) == 3 and not kwargs and beats_transformers(self, args[0])
    return experts(self, {}, *args) if ours else type(self).forward(self, *args, **kwargs)


def _adapted_experts(self: Any, *args: Any, **kwargs: Any) -> Any:
    found = adapted_experts(self) if self.training and len(args) == 3 and not kwargs else None
    return (
        type(self).forward(self, *args, **kwargs)
        if found is None
        else experts(self.get_base_layer(), found, *args)
    )


def _norm(self: Any, hidden_states: Tensor) -> Tensor:
    if not self.training:
        return type(self).forward(self, hidden_states)
    return rms_norm(hidden_states, self.weight, self.variance_epsilon)


def _mlp(self: Any, x: Tensor, residual: Tensor | None = None) -> Tensor:
    if not self.training:
        return type(self).forward(self, x)
    gate, up, down = (getattr(self, name) for name in _MLPS[_path(self)])
    return gated_mlp(x, gate, up, down, getattr(self, "tile_rows", None), residual)


def _layer(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
    own = type(self).forward
    if args or not kernels.available(hidden_states) or not _adds(self, hidden_states, kwargs):
        return own(self, hidden_states, *args, **kwargs)
    # Up to transformers 5.2x a layer recomputes outside of its forward pass, later within it.
    if self.gradient_checkpointing and own.__globals__["__name__"] == "transformers.modeling_layers":
        return self._gradient_checkpointing_func(functools.partial(_added, self, **kwargs), hidden_states)
    return _added(self, hidden_states, **kwargs)


def _adds(layer: Any, hidden: Tensor, kwargs: dict[str, Any]) -> bool:
    """Whether the parts of `layer` add what goes on beside them, in its precision."""
    parts: list[Any] = [getattr(layer, name) for name in _LAYERS[_path(layer)]]
    cached = kwargs.get("cache") is not None or kwargs.get("past_key_values") is not None
    if not layer.training or cached or parts[1].config._attn_implementation == "eager":
        return False
    ours = ("forward" in vars(part) or getattr(part, "adds_residual", False) for part in parts)
    return hidden.dtype == compute_dtype(hidden) and all(ours) and all(map(_has_own_forward, parts))


def _added(self: Any, hidden_states: Tensor, **kwargs: Any) -> Tensor:
    """A layer whose sums are made by the products before them, and their gradients by the norms."""
    first, attention, second, mlp = (getattr(self, name) for name in _LAYERS[_path(self)])
    normed, beside = norm_beside(hidden_states, first.weight, first.variance_epsilon)
    hidden_states, _ = attention(normed, residual=beside, **kwargs)
    normed, beside = norm_beside(hidden_states, second.weight, second.variance_epsilon)
    return mlp(normed, residual=beside)


def _attention(
    self: Any,
    hidden_states: Tensor,
    position_embeddings: Any = None,
    attention_mask: Tensor | None = None,
    residual: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    implementation = self.config._attn_implementation
    # Named `cache` since transformers 5.24.
    cached = kwargs.get("cache") is not None or kwargs.get("past_key_values") is not None
    if not self.training or cached or implementation == "eager":
        return type(self).forward(self, hidden_states, position_embeddings, attention_mask, **kwargs)
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    shape = hidden_states.shape[:-1]
    projected = lora_linears(hidden_states, (self.q_proj, self.k_proj, self.v_proj))
    query, key, value = (x.view(*shape, -1, self.head_dim) for x in projected)
    if hasattr(self, "q_norm"):
        query, key = self.q_norm(query), self.k_norm(key)
    query, key = rotate(query, key, *position_embeddings)
    output, weights = ALL_ATTENTION_FUNCTIONS[implementation](
        self,
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attention_mask,
        dropout=self.attention_dropout,
        scaling=self.scaling,
        sliding_window=_window(self),
        **kwargs,
    )
    output = output.reshape(*shape, -1)
    return self.o_proj(output) if residual is None else linear_onto(residual, output, self.o_proj), weights


def _window(attention: Any) -> int | None:
    if type(attention).__name__ == "MistralAttention":
        return attention.config.sliding_window
    return getattr(attention, "sliding_window", None)
