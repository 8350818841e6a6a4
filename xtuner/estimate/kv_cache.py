"""The KV cache of answers that a run samples, from the model's config.json.

full attention     keys and values of all tokens, and room for some more
window             those of the last tokens
linear attention   states of one size for any length, of a convolution and, in fp32, of all tokens

A test compares it with what the engine holds (tests/estimate/test_kv_cache.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xtuner.blocks import CACHE_ROOM
from xtuner.families import Sizes

_WINDOWS = ("sliding_attention", "chunked_attention")


@dataclass(frozen=True)
class Cached:
    """What the layers of a model keep of an answer, in numbers."""

    full: int = 0  # layers that keep all tokens
    windows: int = 0  # layers that keep the last `window`
    window: int = 0
    width: int = 0  # of keys and values of a token in a layer
    convolutions: int = 0  # of all layers
    states: int = 0  # of all layers, in fp32


@dataclass(frozen=True)
class Sampled:
    """Answers that exist at the same time, and their longest."""

    rows: int
    prompt: int  # tokens, with virtual ones
    answer: int


def read_cached(cfg: Mapping[str, Any], sizes: Sizes, keys: int) -> Cached:
    """What the model of that config.json keeps; `keys` is the width of all keys of a layer."""
    width = 2 * keys
    if narrow := cfg.get("kv_lora_rank"):  # what keys and values are made of
        width = narrow + cfg["qk_rope_head_dim"]
    full, windows = _full_and_windows(cfg, sizes)
    window = cfg.get("attention_chunk_size") or cfg.get("sliding_window") or 0
    convolutions, states = 0, 0
    if sizes.linear_attention:
        linear = cfg["num_hidden_layers"] - full
        heads = cfg["linear_num_value_heads"]
        turned = 2 * cfg["linear_num_key_heads"] * cfg["linear_key_head_dim"]
        turned += heads * cfg["linear_value_head_dim"]
        convolutions = linear * turned * cfg.get("linear_conv_kernel_dim", 4)
        states = linear * heads * cfg["linear_key_head_dim"] * cfg["linear_value_head_dim"]
    return Cached(full, windows, window if windows else 0, width, convolutions, states)


def _full_and_windows(cfg: Mapping[str, Any], sizes: Sizes) -> tuple[int, int]:
    """The numbers of layers that keep all tokens, and those of a window; some read the keys of others."""
    layers = cfg["num_hidden_layers"]
    own = layers - (cfg.get("num_kv_shared_layers") or 0)
    if kinds := cfg.get("layer_types"):
        windows = sum(kind in _WINDOWS for kind in kinds[:own])
        return kinds[:own].count("full_attention"), windows
    if sizes.linear_attention:
        return layers // (cfg.get("full_attention_interval") or 4), 0
    has_window = cfg.get("sliding_window") or cfg.get("attention_chunk_size")
    if not has_window or not cfg.get("use_sliding_window", True):
        return own, 0
    if cfg.get("use_sliding_window") and "max_window_layers" in cfg:
        full = min(own, cfg["max_window_layers"])
        return full, own - full
    # Every so many layers one has no window; if it is not known, none.
    every = cfg.get("sliding_window_pattern") or sizes.window_pattern
    full = own // every if every else 0
    return full, own - full


def cache_bytes(cached: Cached, sampled: Sampled, weight_bytes: int, compute_bytes: int) -> int:
    """Bytes of the caches of all answers when the last token of the longest is chosen.

    Keys and values are in the precision of weights that are not quantised.
    """
    # The last token of an answer is not read.
    more = sampled.answer - 1
    tokens = sampled.prompt + more
    room = sampled.prompt + -(-more // (CACHE_ROOM + 1)) * (CACHE_ROOM + 1)
    kept = cached.full * room + cached.windows * min(tokens, cached.window)
    row = kept * cached.width * weight_bytes + cached.convolutions * compute_bytes + cached.states * 4
    return sampled.rows * row
