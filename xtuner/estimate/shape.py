"""The weights of a language model by their shapes, from its config.json.

{"model_type": "llama", "hidden_size": 4096, ...}  ->  Shape(linears=[Linear("q_proj", 4096, 4096, 32), ...],
                                                            embedding=131072000, head=131072000, rest=266240)

Families of FAMILIES are exact to the last weight, but for parts that see or hear; any other with the usual
names in its config is reckoned as a Llama and says so by `is_exact`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


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

    @property
    def num_weights(self) -> int:
        """All weights."""
        return self.embedding + self.head + self.rest + sum(linear.weights for linear in self.linears)


@dataclass(frozen=True)
class Family:
    """How a family differs from Llama."""

    fused: tuple[tuple[str, ...], ...] = ()  # matrices that are one: ("q_proj", "k_proj", "v_proj")
    names: Mapping[str, str] | None = None  # other names of the matrices
    bias: Callable[[Mapping[str, Any]], set[str]] = lambda cfg: set()  # matrices with a bias
    norms: int = 2  # of a layer, as wide as the model
    head_norms: bool = False  # queries and keys have one each
    tied: bool = False  # unless the config says
    head_dim: int | None = None  # unless the config says
    is_exact: bool = True


_ATTENTION = {"q_proj", "k_proj", "v_proj"}


def _llama_bias(cfg: Mapping[str, Any]) -> set[str]:
    found = _ATTENTION | {"o_proj"} if cfg.get("attention_bias") else set()
    return found | ({"gate_proj", "up_proj", "down_proj"} if cfg.get("mlp_bias") else set())


def _asked_bias(*, output: bool, usual: bool = False) -> Callable[[Mapping[str, Any]], set[str]]:
    def bias(cfg: Mapping[str, Any]) -> set[str]:
        has = cfg.get("attention_bias", cfg.get("bias", usual))
        return (_ATTENTION | ({"o_proj"} if output else set())) if has else set()

    return bias


_GATE_UP = ("gate_proj", "up_proj")
_QKV = ("q_proj", "k_proj", "v_proj")
_INTERNLM2 = {"o_proj": "wo", "gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}

FAMILIES: dict[str, Family] = {
    "llama": Family(bias=_llama_bias),
    "mistral": Family(),
    "qwen2": Family(bias=lambda cfg: _ATTENTION),
    "qwen3": Family(bias=_asked_bias(output=True), head_norms=True),
    "gemma": Family(tied=True, head_dim=256, bias=_asked_bias(output=True)),
    "gemma2": Family(tied=True, head_dim=256, norms=4, bias=_asked_bias(output=True)),
    "gemma3_text": Family(tied=True, head_dim=256, norms=4, head_norms=True),
    "glm": Family(fused=(_GATE_UP,), bias=_asked_bias(output=False)),
    "glm4": Family(fused=(_GATE_UP,), norms=4, bias=_asked_bias(output=False)),
    "phi3": Family(fused=(_QKV, _GATE_UP)),
    "smollm3": Family(tied=True, bias=_llama_bias),
    "internlm": Family(bias=_asked_bias(output=True, usual=True)),
    "internlm2": Family(fused=(_QKV,), names=_INTERNLM2),
    "mixtral": Family(),
    "qwen2_moe": Family(bias=lambda cfg: _ATTENTION if cfg.get("qkv_bias", True) else set()),
    "qwen3_moe": Family(bias=_asked_bias(output=True), head_norms=True),
}
_FUSED_NAMES = {_QKV: "qkv_proj", _GATE_UP: "gate_up_proj"}


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
    family = FAMILIES.get(name, Family(is_exact=False))
    hidden, layers, heads = cfg["hidden_size"], cfg["num_hidden_layers"], cfg["num_attention_heads"]
    width = cfg.get("head_dim") or family.head_dim or hidden // heads
    query, key = heads * width, (cfg.get("num_key_value_heads") or heads) * width
    matrices = {
        "q_proj": (hidden, query),
        "k_proj": (hidden, key),
        "v_proj": (hidden, key),
        "o_proj": (query, hidden),
    }
    mlp, router, is_moe = _mlp(cfg, layers)
    linears = [Linear(n, i, o, layers, layers) for n, (i, o) in matrices.items()] + mlp
    biases = family.bias(cfg)
    rest = sum(linear.outputs * linear.copies for linear in linears if linear.name in biases)
    rest += router + layers * (family.norms * hidden + 2 * width * family.head_norms) + hidden
    tied = cfg.get("tie_word_embeddings", config.get("tie_word_embeddings", family.tied))
    return Shape(
        name,
        hidden,
        layers,
        cfg["vocab_size"],
        heads,
        query,
        key,
        tuple(_renamed(_fuse(linears, family), family)),
        cfg["vocab_size"] * hidden,
        0 if tied else cfg["vocab_size"] * hidden,
        rest,
        cfg.get("max_position_embeddings"),
        str(cfg.get("torch_dtype") or cfg.get("dtype") or ""),
        family.is_exact and not sees and not (is_moe and name not in FAMILIES),
        family.head_norms,
    )


def _mlp(cfg: Mapping[str, Any], layers: int) -> tuple[list[Linear], int, bool]:
    """The matrices behind attention, the weights of the routers, and whether there are experts."""
    hidden = cfg["hidden_size"]
    experts = cfg.get("num_local_experts") or cfg.get("num_experts") or 0
    if not experts:
        return _gated(hidden, cfg["intermediate_size"], layers, layers), 0, False
    width = cfg.get("moe_intermediate_size") or cfg["intermediate_size"]
    chosen = cfg.get("num_experts_per_tok") or 1
    linears = _gated(hidden, width, layers * experts, layers * chosen)
    router = hidden * experts * layers
    if shared := cfg.get("shared_expert_intermediate_size"):
        linears += _gated(hidden, shared, layers, layers)
        router += hidden * layers  # the gate of the shared expert
    return linears, router, True


def _gated(hidden: int, width: int, copies: int, active: int) -> list[Linear]:
    return [
        Linear("gate_proj", hidden, width, copies, active),
        Linear("up_proj", hidden, width, copies, active),
        Linear("down_proj", width, hidden, copies, active),
    ]


def _fuse(linears: list[Linear], family: Family) -> list[Linear]:
    for group in family.fused:
        parts = [linear for linear in linears if linear.name in group]
        name = "wqkv" if family.names and group == _QKV else _FUSED_NAMES[group]
        first = parts[0]
        one = Linear(name, first.inputs, sum(p.outputs for p in parts), first.copies, first.active)
        place = linears.index(first)
        linears = [linear for linear in linears if linear not in parts]
        linears.insert(place, one)
    return linears


def _renamed(linears: list[Linear], family: Family) -> list[Linear]:
    names = family.names or {}
    return [Linear(names.get(x.name, x.name), x.inputs, x.outputs, x.copies, x.active) for x in linears]
