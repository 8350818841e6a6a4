"""The weights of a language model by their shapes, from its config.json.

{"model_type": "llama", "hidden_size": 4096, ...}  ->  Shape(linears=[Linear("q_proj", 4096, 4096, 32), ...],
                                                            embedding=131072000, head=131072000, rest=266240)

Families whose `sizes` are known are exact to the last weight; parts that see or hear are not counted. Any
other with the usual names in its config is reckoned as a Llama and says so by `is_exact`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xtuner.families import Sizes, family_of


@dataclass(frozen=True)
class Linear:
    """A matrix that occurs `copies` times in all layers; a token passes `active` of them."""

    name: str
    inputs: int
    outputs: int
    copies: int
    active: int

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs * self.copies


@dataclass(frozen=True)
class Shape:
    """A model's weights, and the widths that decide what it keeps for backward."""

    family: str
    hidden: int
    layers: int
    vocab: int
    heads: int
    query: int  # width of all queries
    key: int  # width of all keys
    linears: tuple[Linear, ...]
    embedding: int
    head: int  # 0 where the embedding serves as the head too
    rest: int  # norms and biases
    context: int | None = None
    dtype: str = ""
    is_exact: bool = True
    head_norms: bool = False  # queries and keys are normed
    sees: bool = False  # or hears: what does so is not counted

    @property
    def num_weights(self) -> int:
        """All weights."""
        return self.embedding + self.head + self.rest + sum(linear.weights for linear in self.linears)


_JOINED_NAMES = {("q_proj", "k_proj", "v_proj"): "qkv_proj", ("gate_proj", "up_proj"): "gate_up_proj"}


def read_shape(config: Mapping[str, Any]) -> Shape | None:
    """The shape of the model with that config.json; None where it lacks the usual sizes."""
    cfg, sees = config, False
    if isinstance(config.get("text_config"), Mapping):
        cfg, sees = {**config["text_config"]}, True
        cfg.setdefault("torch_dtype", config.get("torch_dtype", config.get("dtype")))
    name = str(cfg.get("model_type", ""))
    wanted = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    if not all(isinstance(cfg.get(key), int) and cfg[key] > 0 for key in wanted):
        return None
    known = family_of(cfg).sizes
    sizes = known or Sizes()
    hidden, layers, heads = cfg["hidden_size"], cfg["num_hidden_layers"], cfg["num_attention_heads"]
    width = cfg.get("head_dim") or sizes.head_dim or hidden // heads
    query, key = heads * width, (cfg.get("num_key_value_heads") or heads) * width
    matrices = {
        "q_proj": (hidden, query),
        "k_proj": (hidden, key),
        "v_proj": (hidden, key),
        "o_proj": (query, hidden),
    }
    mlp, router = _mlp(cfg, layers)
    linears = [Linear(n, i, o, layers, layers) for n, (i, o) in matrices.items()] + mlp
    biases = sizes.bias(cfg)
    rest = sum(linear.outputs * linear.copies for linear in linears if linear.name in biases)
    rest += router + layers * (sizes.norms * hidden + 2 * width * sizes.head_norms) + hidden
    tied = cfg.get("tie_word_embeddings", config.get("tie_word_embeddings", sizes.tied))
    return Shape(
        name,
        hidden,
        layers,
        cfg["vocab_size"],
        heads,
        query,
        key,
        tuple(_renamed(_join(linears, sizes), sizes)),
        cfg["vocab_size"] * hidden,
        0 if tied else cfg["vocab_size"] * hidden,
        rest,
        cfg.get("max_position_embeddings"),
        str(cfg.get("torch_dtype") or cfg.get("dtype") or ""),
        known is not None and not sees,
        sizes.head_norms,
        sees,
    )


def _mlp(cfg: Mapping[str, Any], layers: int) -> tuple[list[Linear], int]:
    """The matrices behind attention, and the weights of the routers."""
    hidden = cfg["hidden_size"]
    experts = cfg.get("num_local_experts") or cfg.get("num_experts") or 0
    if not experts:
        return _gated(hidden, cfg["intermediate_size"], layers, layers), 0
    width = cfg.get("moe_intermediate_size") or cfg["intermediate_size"]
    chosen = cfg.get("num_experts_per_tok") or 1
    linears = _gated(hidden, width, layers * experts, layers * chosen)
    router = hidden * experts * layers
    if shared := cfg.get("shared_expert_intermediate_size"):
        linears += _gated(hidden, shared, layers, layers)
        router += hidden * layers  # the gate of the shared expert
    return linears, router


def _gated(hidden: int, width: int, copies: int, active: int) -> list[Linear]:
    return [
        Linear("gate_proj", hidden, width, copies, active),
        Linear("up_proj", hidden, width, copies, active),
        Linear("down_proj", width, hidden, copies, active),
    ]


def _join(linears: list[Linear], sizes: Sizes) -> list[Linear]:
    for group in sizes.joined:
        parts = [linear for linear in linears if linear.name in group]
        name = "wqkv" if sizes.names else _JOINED_NAMES[group]
        first = parts[0]
        one = Linear(name, first.inputs, sum(p.outputs for p in parts), first.copies, first.active)
        place = linears.index(first)
        linears = [linear for linear in linears if linear not in parts]
        linears.insert(place, one)
    return linears


def _renamed(linears: list[Linear], sizes: Sizes) -> list[Linear]:
    names = sizes.names or {}
    return [Linear(names.get(x.name, x.name), x.inputs, x.outputs, x.copies, x.active) for x in linears]
