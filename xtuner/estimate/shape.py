"""The weights of a language model by their shapes, from its config.json.

{"model_type": "llama", "hidden_size": 4096, ...}  ->  Shape(linears=[Linear("q_proj", 4096, 4096, 32), ...],
                                                            embedding=131072000, head=131072000, rest=266240)

Families with known `sizes` are exact to the last weight; parts for images or audio are counted from files
(images.py). Any other with the usual names in its config is estimated as a Llama, with `is_exact` false.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from xtuner.estimate.kv_cache import Cached, read_cached
from xtuner.families import Sizes, family_of, text_part
from xtuner.model_folder import ADDED_LAYERS


@dataclass(frozen=True)
class Linear:
    """A matrix that occurs `copies` times in all layers; a token passes `active` of them.

    `experts`: the number of experts in one parameter; 0 if each is a separate module.
    """

    name: str
    inputs: int
    outputs: int
    copies: int
    active: int
    experts: int = 0
    block: str = ""  # of parallel MLPs: "shared", "experts"
    role: str = ""  # Llama's name of it

    @property
    def weights(self) -> int:
        """The number of weights of all copies."""
        return self.inputs * self.outputs * self.copies

    @property
    def tensors(self) -> int:
        """The number of parameters of the copies."""
        return self.copies // max(1, self.experts)

    @property
    def tensor_weights(self) -> int:
        """The number of weights of one parameter."""
        return self.inputs * self.outputs * max(1, self.experts)

    def rank(self, rank: int) -> int:
        """The rank of a copy's adapter: the experts that a token passes have `rank` together."""
        return max(1, rank * self.tensors // self.active) if self.experts else rank


class Tensors(NamedTuple):
    """`copies` tensors of one shape; `outside`: in the embedding or the head, not in a layer."""

    shape: tuple[int, ...]
    copies: int = 1
    outside: bool = False

    @property
    def weights(self) -> int:
        """The number of weights of all copies."""
        return math.prod(self.shape) * self.copies


@dataclass(frozen=True)
class Shape:
    """A model's weights, and the widths that decide what it saves for backward."""

    family: str
    hidden: int
    layers: int
    vocab: int
    heads: int
    query: int  # width of all queries
    key: int  # width of all keys
    linears: tuple[Linear, ...]
    embedding: int
    head: int  # 0 if it is tied to the embedding
    rest: int  # norms and biases
    context: int | None = None
    dtype: str = ""
    is_exact: bool = True
    head_norms: bool = False  # queries and keys are normalised
    sees: bool = False  # has parts for images or audio
    # Weights of these: 0 if they are not known (estimate/images.py).
    encoder: int = 0
    projector: int = 0
    added: tuple[int, ...] = ()  # numbers of the layers that xtuner convert expand has added
    cached: Cached = field(default_factory=Cached)  # of an answer that is sampled

    @property
    def num_weights(self) -> int:
        """The number of all weights."""
        return self.embedding + self.head + self.rest + sum(linear.weights for linear in self.linears)


_JOINED_NAMES = {("q_proj", "k_proj", "v_proj"): "qkv_proj", ("gate_proj", "up_proj"): "gate_up_proj"}


def read_shape(config: Mapping[str, Any]) -> Shape | None:
    """The shape of the model with that config.json; None if it lacks the usual sizes."""
    cfg, sees = config, False
    if text := text_part(config):
        cfg, sees = {**text}, True
        cfg.setdefault("torch_dtype", config.get("torch_dtype", config.get("dtype")))
    name = str(cfg.get("model_type", ""))
    wanted = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    if not all(isinstance(cfg.get(key), int) and cfg[key] > 0 for key in wanted):
        return None
    known = family_of(cfg).sizes
    sizes = known or Sizes()
    hidden, layers, heads = cfg["hidden_size"], cfg["num_hidden_layers"], cfg["num_attention_heads"]
    width = cfg.get("head_dim") or sizes.head_dim or hidden // heads
    attention = _attention(cfg, sizes, layers, width)
    mlp, router = _mlp(cfg, sizes, layers)
    linears = [*attention.linears, *mlp]
    biases = sizes.bias(cfg)
    rest = sum(linear.outputs * linear.copies for linear in linears if linear.name in biases)
    rest += router + attention.rest + layers * sizes.norms * hidden + hidden
    rest += layers * heads if sizes.sinks else 0
    tied = cfg.get("tie_word_embeddings", config.get("tie_word_embeddings", sizes.tied))
    return Shape(
        name,
        hidden,
        layers,
        cfg["vocab_size"],
        heads,
        attention.query,
        attention.key,
        tuple(_renamed(_join(linears, sizes), sizes)),
        cfg["vocab_size"] * hidden,
        0 if tied else cfg["vocab_size"] * hidden,
        rest,
        cfg.get("max_position_embeddings"),
        str(cfg.get("torch_dtype") or cfg.get("dtype") or ""),
        known is not None and not sees,
        sizes.head_norms,
        sees,
        added=tuple(cfg.get(ADDED_LAYERS) or ()),
        cached=read_cached(cfg, sizes, attention.key),
    )


class _Attention(NamedTuple):
    """Matrices of all layers, the number of other weights, and the widths of queries and keys."""

    linears: list[Linear]
    rest: int
    query: int
    key: int


def _attention(cfg: Mapping[str, Any], sizes: Sizes, layers: int, width: int) -> _Attention:
    hidden, heads = cfg["hidden_size"], cfg["num_attention_heads"]
    if cfg.get("kv_lora_rank"):
        return _latent_attention(cfg, layers)
    query, key = heads * width, (cfg.get("num_key_value_heads") or heads) * width
    full = layers
    linears: list[Linear] = []
    rest = 0
    if sizes.linear_attention:
        full = _full_layers(cfg, layers)
        linears, rest = _linear_attention(cfg, layers - full)
    gate = 2 if sizes.gated_queries else 1
    matrices = {
        "q_proj": (hidden, gate * query),
        "k_proj": (hidden, key),
        "v_proj": (hidden, key),
        "o_proj": (query, hidden),
    }
    linears += [Linear(name, i, o, full, full) for name, (i, o) in matrices.items()]
    return _Attention(linears, rest + full * 2 * width * sizes.head_norms, query, key)


def _latent_attention(cfg: Mapping[str, Any], layers: int) -> _Attention:
    """DeepSeek's: queries, and keys with values, through a narrow layer each."""
    hidden, heads, narrow = cfg["hidden_size"], cfg["num_attention_heads"], cfg["kv_lora_rank"]
    plain, turned, value = cfg["qk_nope_head_dim"], cfg["qk_rope_head_dim"], cfg["v_head_dim"]
    query = heads * (plain + turned)
    matrices = {"q_proj": (hidden, query)}
    if rank := cfg.get("q_lora_rank"):
        matrices = {"q_a_proj": (hidden, rank), "q_b_proj": (rank, query)}
    matrices |= {
        "kv_a_proj_with_mqa": (hidden, narrow + turned),
        "kv_b_proj": (narrow, heads * (plain + value)),
        "o_proj": (heads * value, hidden),
    }
    linears = [Linear(name, i, o, layers, layers) for name, (i, o) in matrices.items()]
    return _Attention(linears, layers * (narrow + (rank or 0)), query, query)


def _full_layers(cfg: Mapping[str, Any], layers: int) -> int:
    """The number of layers with full attention in a family with linear attention."""
    kinds = cfg.get("layer_types")
    return kinds.count("full_attention") if kinds else layers // (cfg.get("full_attention_interval") or 4)


def _linear_attention(cfg: Mapping[str, Any], layers: int) -> tuple[list[Linear], int]:
    """Qwen3-Next's gated delta net."""
    hidden, values = cfg["hidden_size"], cfg["linear_num_value_heads"]
    keys_width = cfg["linear_num_key_heads"] * cfg["linear_key_head_dim"]
    values_width = values * cfg["linear_value_head_dim"]
    linears = [
        Linear("in_proj_qkvz", hidden, 2 * (keys_width + values_width), layers, layers),
        Linear("in_proj_ba", hidden, 2 * values, layers, layers),
        Linear("out_proj", values_width, hidden, layers, layers),
    ]
    convolution = (2 * keys_width + values_width) * cfg.get("linear_conv_kernel_dim", 4)
    return linears, layers * (convolution + 2 * values + cfg["linear_value_head_dim"])


def _mlp(cfg: Mapping[str, Any], sizes: Sizes, layers: int) -> tuple[list[Linear], int]:
    """The matrices after attention, and the number of weights of the routers."""
    hidden, wide = cfg["hidden_size"], cfg["intermediate_size"]
    experts = cfg.get("num_local_experts") or cfg.get("num_experts") or cfg.get("n_routed_experts") or 0
    if not experts:
        return _gated(hidden, wide, layers), 0
    width = cfg.get("moe_intermediate_size") or wide
    dense = _dense_layers(cfg, layers)
    mixed = layers - dense
    copies, active = mixed * experts, mixed * (cfg.get("num_experts_per_tok") or 1)
    linears = _gated(hidden, cfg.get("intermediate_size_mlp") or wide, dense) if dense else []
    linears += [
        Linear("gate_up_proj", hidden, 2 * width, copies, active, experts, "experts"),
        Linear("down_proj", width, hidden, copies, active, experts, "experts"),
    ]
    router = (hidden + ("router" in sizes.bias(cfg))) * experts * mixed
    if shared := sizes.shared_width(cfg):
        linears += _gated(hidden, shared, mixed, "shared")
        router += hidden * mixed * sizes.shared_gate
    return linears, router


def _dense_layers(cfg: Mapping[str, Any], layers: int) -> int:
    """The number of layers without experts."""
    if "first_k_dense_replace" in cfg:
        return min(cfg["first_k_dense_replace"], layers)
    step = cfg.get("interleave_moe_layer_step") or cfg.get("decoder_sparse_step") or 1
    without = set(cfg.get("mlp_only_layers") or ())
    return sum(i in without or (i + 1) % step != 0 for i in range(layers))


def _gated(hidden: int, width: int, copies: int, block: str = "") -> list[Linear]:
    return [
        Linear("gate_proj", hidden, width, copies, copies, block=block),
        Linear("up_proj", hidden, width, copies, copies, block=block),
        Linear("down_proj", width, hidden, copies, copies, block=block),
    ]


def _join(linears: list[Linear], sizes: Sizes) -> list[Linear]:
    for group in sizes.joined:
        parts = [linear for linear in linears if linear.name in group]
        name = _JOINED_NAMES[group]
        first = parts[0]
        one = Linear(name, first.inputs, sum(p.outputs for p in parts), first.copies, first.active)
        place = linears.index(first)
        linears = [linear for linear in linears if linear not in parts]
        linears.insert(place, one)
    return linears


def _renamed(linears: list[Linear], sizes: Sizes) -> list[Linear]:
    names = sizes.names or {}
    return [replace(x, name=names.get(x.name, x.name), role=x.name) for x in linears]
