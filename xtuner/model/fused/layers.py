"""Which modules of a loaded model run through the fused functions, and their forward passes.

    family's module             while it trains                      else
    LlamaAttention and its kin  q, k, v as one group, rotate          its own forward
    gated MLPs                  one function                          its own forward
    RMS norms                   one function                          its own forward
    experts with adapters       low-rank products on routed tokens    its own forward
    any other LoRA layer        one function                          its own forward

Parameters, names and checkpoints stay as they are: only `forward` of single modules is replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import Tensor, nn

from xtuner.families import FAMILIES
from xtuner.model.fused.experts import adapted_experts, experts, is_on_parameter
from xtuner.model.fused.linear import adapted, is_lora, lora_linears
from xtuner.model.fused.mlp import gated_mlp
from xtuner.model.fused.norm import rms_norm
from xtuner.model.fused.rotary import rotate

_FUSED = [family.fused for family in FAMILIES.values() if family.fused is not None]
_ATTENTION = {fused.attention for fused in _FUSED}
_NORMS = {fused.norm for fused in _FUSED}
# Class -> names of its gate, up and down layers.
_MLPS = {fused.mlp: fused.gated for fused in _FUSED}


def fuse(llm: nn.Module) -> int:
    """How many modules of `llm` train through a fused function from now on."""
    count = 0
    inner: set[Any] = set()
    for module in llm.modules():
        name = type(module).__name__
        forward: Callable[..., Any] | None = None
        if name in _ATTENTION:
            forward = _attention
        elif name in _MLPS and "SiLU" in type(module.act_fn).__name__:
            forward = _mlp
        elif name in _NORMS:
            forward = _norm
        elif is_on_parameter(module):
            forward = None if module in inner else _experts
            inner.add(module.base_layer)
        elif is_lora(module):
            forward = _linear
        if forward is not None:
            # A bound method, so that a deep copy of the model is bound to the copy.
            module.forward = MethodType(forward, module)
            count += 1
    return count


def tile(llm: nn.Module, rows: int) -> None:
    """Let gated MLPs with adapters take `rows` rows at a time, and compute them again in backward."""
    module: Any
    for module in llm.modules():
        if type(module).__name__ in _MLPS:
            module.tile_rows = rows


def unfuse(llm: nn.Module) -> None:
    """Give the modules of `llm` that `fuse` changed their own forward back."""
    for module in llm.modules():
        forward = module.__dict__.get("forward")
        if getattr(forward, "__module__", None) == __name__:
            del module.__dict__["forward"]


def _linear(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    layer = None if args or kwargs or not self.training else adapted(self)
    return type(self).forward(self, x, *args, **kwargs) if layer is None else lora_linears(x, (self,))[0]


def _experts(self: Any, *args: Any, **kwargs: Any) -> Any:
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


def _mlp(self: Any, x: Tensor) -> Tensor:
    if not self.training:
        return type(self).forward(self, x)
    gate, up, down = (getattr(self, name) for name in _MLPS[type(self).__name__])
    return gated_mlp(x, gate, up, down, getattr(self, "tile_rows", None))


def _attention(
    self: Any,
    hidden_states: Tensor,
    position_embeddings: Any = None,
    attention_mask: Tensor | None = None,
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
    return self.o_proj(output.reshape(*shape, -1)), weights


def _window(attention: Any) -> int | None:
    if type(attention).__name__ == "MistralAttention":
        return attention.config.sliding_window
    return getattr(attention, "sliding_window", None)
