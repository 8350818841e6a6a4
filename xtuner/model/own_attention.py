"""Packs in families whose code computes attention itself, without transformers' interface for it.

    BloomModel        replaced: embedding, layers, last norm       no mask, no ALiBi of the whole sequence
    BloomBlock        its own code, recomputation included
    BloomAttention    replaced: projections, ours, projection      ALiBi from the first token of each sample
    outside of packs  their own code: generation, padded batches

ALiBi (Press et al. 2021, arXiv 2108.12409) adds to each score a head's slope times the key's position. The
family's own function makes it, in the precision that the family gives it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from xtuner.families import family_of
from xtuner.model import attention
from xtuner.model.base import base_model
from xtuner.model.foreign import is_proven
from xtuner.model.packed import to_device

_COST = "each sample runs by itself: slower with many short samples"


@dataclass(frozen=True)
class _Pack:
    """What a layer gets as its mask."""

    mask: attention.PackedMask
    starts: Tensor
    longest: int
    key_bias: Tensor | None


def stand_in(llm: Any) -> bool:
    """Whether packs of `llm` run through our attention from now on; all of its layers do, or none."""
    own = family_of(llm.config).own_attention
    if own is None:
        return False
    modules = {path: [m for m in llm.modules() if _path(m) == path] for path in (own.decoder, own.attention)}
    classes = [type(m) for m in llm.modules() if _path(m) in (own.decoder, own.layer, own.attention)]
    free = all("forward" not in vars(m) for found in modules.values() for m in found)
    if not (free and all(modules.values()) and _gives_what_ours_gives(llm.config)):
        return False
    if not all(is_proven(code, _COST) for code in [*dict.fromkeys(classes), _builder(llm.config)]):
        return False
    for path, found in modules.items():
        forward = _decoder if path == own.decoder else _attention
        for module in found:
            # A bound method, so that a deep copy of the model is bound to the copy.
            module.forward = MethodType(forward, module)
    return True


def stands_in(llm: Any) -> bool:
    """Whether packs of `llm` run through our attention."""
    forward = vars(base_model(llm).base_model).get("forward")
    return getattr(forward, "__func__", None) is _decoder


def _path(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _gives_what_ours_gives(config: Any) -> bool:
    # Bloom's sum over slices of a weight leaves the bias out.
    return not (getattr(config, "slow_but_exact", False) and getattr(config, "pretraining_tp", 1) > 1)


def _decoder(self: Any, input_ids: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
    boundaries = attention.boundaries()
    if boundaries is None:
        return type(self).forward(self, input_ids, *args, **kwargs)
    from transformers.modeling_outputs import BaseModelOutputWithPast

    hidden = kwargs.get("inputs_embeds")
    if hidden is None:
        hidden = self.get_input_embeddings()(input_ids)
    positions = np.concatenate([np.arange(b - a) for a, b in itertools.pairwise(boundaries)])
    position_ids = to_device(positions, hidden.device)[None]
    pack = _pack(self, boundaries, position_ids[0], hidden)
    return BaseModelOutputWithPast(_parts(self).layers(self, hidden, pack, position_ids))


def _pack(decoder: Any, boundaries: Sequence[int], positions: Tensor, hidden: Tensor) -> _Pack:
    longest = max(b - a for a, b in itertools.pairwise(boundaries))
    starts = to_device(np.array(boundaries, np.int32), hidden.device)
    table = _parts(decoder).alibi(decoder.config, longest, hidden)
    mask = attention.PackedMask(boundaries, length=boundaries[-1])
    return _Pack(mask, starts, longest, None if table is None else table[:, positions])


def _attention(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
    pack = kwargs.get("attention_mask")
    if not isinstance(pack, _Pack):
        return type(self).forward(self, hidden_states, *args, **kwargs)
    return _parts(self).attention(self, hidden_states, *args, **kwargs), None


def _attend(module: Any, heads: Iterable[Tensor], pack: _Pack, scaling: float, dropout_rate: float) -> Tensor:
    """`[1, N, H * D]`; `heads`: query, key and value, `[1, H, N, D]` each."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    # Where layers are compiled, it is registered as not to be.
    output, _ = ALL_ATTENTION_FUNCTIONS[attention.NAME](
        module, *heads, pack.mask, scaling=scaling, dropout=dropout_rate if module.training else 0.0,
        cu_seq_lens_q=pack.starts, max_length_q=pack.longest, key_bias=pack.key_bias,
    )  # fmt: skip
    return output.flatten(2)


def _builder(config: Any) -> Callable[..., Tensor]:
    """The family's function for ALiBi."""
    import importlib

    name = config.model_type
    module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    return module.build_mpt_alibi_tensor if name == "mpt" else module.build_alibi_tensor


def _bloom_alibi(config: Any, length: int, hidden: Tensor) -> Tensor:
    """`[H, length]`; of float64 in fp32, as Bloom's own is."""
    mask = torch.ones(1, length, dtype=torch.long, device=hidden.device)
    return _builder(config)(mask, config.num_attention_heads, hidden.dtype)[:, 0]


def _bloom_layers(self: Any, hidden: Tensor, pack: _Pack, position_ids: Tensor) -> Tensor:
    hidden = self.word_embeddings_layernorm(hidden)
    for layer in self.h:
        hidden = layer(hidden, alibi=None, attention_mask=pack)[0]
    return self.ln_f(hidden)


def _bloom_attention(
    self: Any, hidden_states: Tensor, residual: Tensor, attention_mask: _Pack, **kwargs: Any
) -> Tensor:
    qkv = self._reshape(self.query_key_value(hidden_states))
    output = _attend(self, qkv, attention_mask, self.inv_norm_factor, self.attention_dropout.p)
    return residual + dropout(self.dense(output), self.hidden_dropout, self.training)


def _falcon_alibi(config: Any, length: int, hidden: Tensor) -> Tensor | None:
    return _bloom_alibi(config, length, hidden) / math.sqrt(config.head_dim) if config.alibi else None


def _falcon_layers(self: Any, hidden: Tensor, pack: _Pack, position_ids: Tensor) -> Tensor:
    angles = self.rotary_emb(hidden, position_ids=position_ids)
    for layer in self.h:
        hidden = layer(
            hidden, alibi=None, attention_mask=pack, position_ids=position_ids, position_embeddings=angles
        )[0]
    return self.ln_f(hidden)


def _falcon_attention(
    self: Any, hidden_states: Tensor, attention_mask: _Pack, position_embeddings: Any, **kwargs: Any
) -> Tensor:
    from transformers.models.falcon.modeling_falcon import apply_rotary_pos_emb

    query, key, value = (x.transpose(1, 2) for x in self._split_heads(self.query_key_value(hidden_states)))
    dropout_rate = self.attention_dropout.p
    if attention_mask.key_bias is None:
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        dropout_rate = 0.0  # Falcon has dropout beside ALiBi only
    heads = query, key, value
    return self.dense(_attend(self, heads, attention_mask, self.inv_norm_factor, dropout_rate))


def _mpt_alibi(config: Any, length: int, hidden: Tensor) -> Tensor:
    return _builder(config)(config.num_attention_heads, length, device=hidden.device)[:, 0]


def _mpt_layers(self: Any, hidden: Tensor, pack: _Pack, position_ids: Tensor) -> Tensor:
    for layer in self.blocks:
        hidden = layer(hidden, position_bias=None, attention_mask=pack)[0]
    return self.norm_f(hidden)


def _mpt_attention(self: Any, hidden_states: Tensor, attention_mask: _Pack, **kwargs: Any) -> Tensor:
    qkv = self.Wqkv(hidden_states)
    if self.clip_qkv:
        qkv = qkv.clamp(min=-self.clip_qkv, max=self.clip_qkv)
    heads = (x.unflatten(2, (self.n_heads, self.head_dim)).transpose(1, 2) for x in qkv.chunk(3, dim=2))
    return self.out_proj(_attend(self, heads, attention_mask, self.softmax_scale, self.attn_dropout_p))


@dataclass(frozen=True)
class _Parts:
    alibi: Callable[..., Tensor | None]
    layers: Callable[..., Tensor]
    attention: Callable[..., Tensor]


_PARTS = {
    "bloom": _Parts(_bloom_alibi, _bloom_layers, _bloom_attention),
    "falcon": _Parts(_falcon_alibi, _falcon_layers, _falcon_attention),
    "mpt": _Parts(_mpt_alibi, _mpt_layers, _mpt_attention),
}


def _parts(module: nn.Module) -> _Parts:
    return _PARTS[type(module).__module__.rpartition("modeling_")[2]]
