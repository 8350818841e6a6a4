"""Tensors of a family that is a Llama under other names, as a Llama has them.

layers.0.attention.wqkv.weight   [groups][q_1 .. q_G, k, v] x hidden   ->   self_attn.q_proj, k_proj, v_proj
layers.0.feed_forward.w1.weight                                        ->   mlp.gate_proj
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from xtuner.families import family_of

Load = Callable[[], torch.Tensor]


def as_llama(
    name: str, shape: tuple[int, ...], load: Load, config: Any
) -> list[tuple[str, tuple[int, ...], Load]]:
    """A tensor of the language model of `config`: names, shapes and functions that load it, or its parts."""
    if ".wqkv." in name:
        return _split_qkv(name, shape, load, config)
    own = f".{name}"
    for theirs, llamas in family_of(config).llama_names.items():
        own = own.replace(f".{theirs}.", f".{llamas}.")
    return [(own[1:], shape, load)]


def _split_qkv(
    name: str, shape: tuple[int, ...], load: Load, config: Any
) -> list[tuple[str, tuple[int, ...], Load]]:
    """Queries, keys and values of InternLM2's one matrix: for each group its queries, a key, a value."""
    groups, size = config.num_key_value_heads, head_size(config)
    each = config.num_attention_heads // groups
    found: list[tuple[str, tuple[int, ...], Load]] = []
    for part, start, count in (("q", 0, each), ("k", each, 1), ("v", each + 1, 1)):

        def load_part(start: int = start, count: int = count) -> torch.Tensor:
            rows = load().view(groups, each + 2, size, *shape[1:])
            return rows[:, start : start + count].reshape(groups * count * size, *shape[1:])

        own = name.replace("attention.wqkv", f"self_attn.{part}_proj")
        found.append((own, (groups * count * size, *shape[1:]), load_part))
    return found


def head_size(config: Any) -> int:
    """The size of an attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
