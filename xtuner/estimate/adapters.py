"""The tensors that an adapter of peft besides LoRA trains, by its settings and the shape of the model.

    dict(type=OFTConfig, oft_block_size=32)  ->  of a matrix with 4096 inputs [128, 496]
    dict(type=VeraConfig)                    ->  of a matrix with 4096 outputs [4096] and [256]

Defaults are peft's; a test builds each of them with peft. What an adapter holds besides, such as the frozen
matrices that VeRA's layers share, is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from xtuner.estimate.shape import Linear, Shape, Tensors
from xtuner.families import family_of

Get = Callable[[str, Any], Any]  # a setting, or its default
Sizes = list[tuple[int, ...]]


def adapter_tensors(shape: Shape, kind: str, settings: Mapping[str, Any]) -> tuple[Tensors, ...] | None:
    """What an adapter of the config class `kind` trains; None for LoRA and for classes without a row."""

    def get(name: str, default: Any) -> Any:
        given = settings.get(name)
        return default if given is None else given

    if kind in _WHOLE:
        return tuple(_WHOLE[kind](get, shape))
    if kind not in _OF_MATRIX:
        return None
    adapted = list(_adapted(shape, get("target_modules", None)))
    found = [Tensors(size, x.copies) for x in adapted for size in _OF_MATRIX[kind](get, x.inputs, x.outputs)]
    shared = _SHARED[kind](get, sum(x.copies for x in adapted)) if kind in _SHARED else []
    return (*found, *(Tensors(size) for size in shared))


def _adapted(shape: Shape, named: Any) -> Iterator[Linear]:
    """The matrices with an adapter, all unless words name some; never experts in one parameter."""
    for x in shape.linears:
        if not x.experts and (not _are_words(named) or x.name in named):
            yield x


def _are_words(named: Any) -> bool:
    return isinstance(named, (list, tuple, set)) and all(isinstance(word, str) for word in named)


def _adalora(get: Get, i: int, o: int) -> Sizes:
    r = get("init_r", 12)
    return [(r, i), (o, r), (r, 1)]


def _boft(get: Get, i: int, o: int) -> Sizes:
    blocks = get("boft_block_num", 0)
    size = i // blocks if blocks else get("boft_block_size", 4)
    return [(get("boft_n_butterfly_factor", 1), i // size, size, size), (o, 1)]


def _c3a(get: Get, i: int, o: int) -> Sizes:
    size = get("block_size", 256)
    return [(o // size, i // size, size)]


def _deft(get: Get, i: int, o: int) -> Sizes:
    r = get("r", 8)
    return [(o, r)] if get("para", False) else [(o, r), (r, i)]


def _delora(get: Get, i: int, o: int) -> Sizes:
    r = get("r", 8)
    return [(r, i), (o, r), (1,)]


def _frod(get: Get, i: int, o: int) -> Sizes:
    rate = get("sparse_rate", 0.01)
    turned = min(int(i * i * rate), i * (i - 1))
    return [(i,), (max(1, turned) if rate > 0 else turned,)]


def _glora(get: Get, i: int, o: int) -> Sizes:
    r, kind = get("r", 8), get("config_A_B", "lora").lower()
    known: dict[str, Sizes] = {"lora": [(o, r), (r, i)], "vector": [(o, 1)], "constant": [(1,)]}
    return 2 * known.get(kind, [])


def _gralora(get: Get, i: int, o: int) -> Sizes:
    r, k, plain = get("r", 32), get("gralora_k", 2), get("hybrid_r", 0)
    return [(k, i // k, r), (k, r, o // k), *([(plain, i), (o, plain)] if plain else [])]


def _lokr(get: Get, i: int, o: int) -> Sizes:
    r, factor = get("r", 8), get("decompose_factor", -1)
    (i1, i2), (o1, o2) = _factors(i, factor), _factors(o, factor)
    first: Sizes = [(o1, i1)]
    if get("decompose_both", False) and r < max(o1, i1) / 2:
        first = [(o1, r), (r, i1)]
    second: Sizes = [(o2, r), (r, i2)] if r < max(o2, i2) / 2 else [(o2, i2)]
    return first + second


def _factors(size: int, factor: int) -> tuple[int, int]:
    """Two factors of `size`, the smaller first: near its root, or as near to `factor` as they can be."""
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    most = size if factor == -1 else factor
    pairs = [(m, size // m) for m in range(1, size + 1) if size % m == 0 and m * m <= size and m <= most]
    return min(pairs, key=sum, default=(1, size))


def _miss(get: Get, i: int, o: int) -> Sizes:
    r, way = get("r", 64), get("init_weights", True)
    return [{"bat": (o // r, r, r), "mini": (r, get("mini_r", 1))}.get(way, (r, o))]


def _oft(get: Get, i: int, o: int) -> Sizes:
    blocks = get("r", 0)
    if blocks:
        blocks = _divisor(i, blocks)
        size = i // blocks
    else:
        size = _divisor(i, get("oft_block_size", 32))
        blocks = i // size
    return [(1 if get("block_share", False) else blocks, size * (size - 1) // 2)]


def _divisor(size: int, near: int) -> int:
    """The divisor of `size` that is nearest to `near`, the smaller of two."""
    return min((n for n in range(1, size + 1) if size % n == 0), key=lambda n: (abs(n - near), n))


def _osf(get: Get, i: int, o: int) -> Sizes:
    least = min(i, o)
    kept = get("effective_rank", 0.5)
    rank = least - (int(kept * least) if isinstance(kept, float) else kept)
    return [(rank,), (o, rank), (rank, i)]


def _peanut(get: Get, i: int, o: int) -> Sizes:
    r = get("r", 32)
    return [(r, o), (o, r), *[(r, r)] * (2 * get("depth", 0))]


def _psoft(get: Get, i: int, o: int) -> Sizes:
    r = get("r", 32)
    return [(r * (r - 1) // 2,), *[(r,)] * (get("psoft_mag_a", True) + get("psoft_mag_b", True))]


def _randlora(get: Get, i: int, o: int) -> Sizes:
    r, least = get("r", 32), min(i, o)
    bases = -(-least // r)
    return [(r, bases), (bases, least)]


def _road(get: Get, i: int, o: int) -> Sizes:
    size = {"road_1": o // 2, "road_2": o, "road_4": 2 * o}[get("variant", "road_1")]
    return [(size,), (size,)]


def _supertuning(get: Get, i: int, o: int) -> Sizes:
    r = get("r", 0)
    return [(int(i * o * (1 - get("sparsity", 0.99))),), *([(r, i), (o, r)] if r else [])]


def _vblora(get: Get, i: int, o: int) -> Sizes:
    r, length, count = get("r", 4), get("vector_length", 256), get("num_vectors", 256)
    return [(r, i // length, count), (o // length, r, count)]


def _two(r: int) -> Callable[[Get, int, int], Sizes]:
    """Two matrices as LoRA has them, of rank `r` unless it is set."""
    return lambda get, i, o: [(get("r", r), i), (o, get("r", r))]


# Config class -> the tensors of a matrix with `i` inputs and `o` outputs.
_OF_MATRIX: dict[str, Callable[[Get, int, int], Sizes]] = {
    "AdaLoraConfig": _adalora,
    "BOFTConfig": _boft,
    "BeftConfig": lambda get, i, o: [(1, o)],
    "C3AConfig": _c3a,
    "DeftConfig": _deft,
    "DeloraConfig": _delora,
    "FourierFTConfig": lambda get, i, o: [(get("n_frequency", 1000),)],
    "FrodConfig": _frod,
    "GloraConfig": _glora,
    "GraloraConfig": _gralora,
    "HRAConfig": lambda get, i, o: [(i, get("r", 8))],
    "HiraConfig": _two(32),
    "LoHaConfig": lambda get, i, o: 2 * _two(8)(get, i, o),
    "LoKrConfig": _lokr,
    "MissConfig": _miss,
    "OFTConfig": _oft,
    "OSFConfig": _osf,
    "PeanutConfig": _peanut,
    "PsoftConfig": _psoft,
    "PveraConfig": lambda get, i, o: [(o,), (2 * get("r", 256),)],
    "RandLoraConfig": _randlora,
    "RoadConfig": _road,
    "ShiraConfig": lambda get, i, o: [(get("r", 32) * (i + o),)],
    "SupertuningConfig": _supertuning,
    "TinyLoraConfig": lambda get, i, o: [],
    "UniLoraConfig": lambda get, i, o: [],
    "VBLoRAConfig": _vblora,
    "VeraConfig": lambda get, i, o: [(o,), (get("r", 256),)],
    "WaveFTConfig": lambda get, i, o: [(get("n_frequency", 2592),)],
}


def _tinylora(get: Get, count: int) -> Sizes:
    groups = max(1, round(count * (1 - get("weight_tying", 0.0))))
    return [(get("u", 64),)] * min(groups, -(-count // max(1, count // groups)))


# Config class -> the tensors that its `count` matrices share.
_SHARED: dict[str, Callable[[Get, int], Sizes]] = {
    "TinyLoraConfig": _tinylora,
    "UniLoraConfig": lambda get, count: [(get("theta_d_length", 256),)],
    "VBLoRAConfig": lambda get, count: [(get("num_vectors", 256), get("vector_length", 256))],
}


def _adaption_prompt(get: Get, shape: Shape) -> Iterator[Tensors]:
    layers = get("adapter_layers", 0)
    yield Tensors((1, get("adapter_len", 0), shape.hidden), layers)
    yield Tensors((1,), layers)


def _ia3(get: Get, shape: Shape) -> Iterator[Tensors]:
    """A factor for each output; for each input of what comes last in an MLP."""
    other = shape.family.startswith(("qwen", "gemma"))
    named = get("target_modules", ("q_proj" if other else "k_proj", "v_proj", "down_proj"))
    inner = get("feedforward_modules", ("down_proj", "w2"))
    for x in _adapted(shape, named):
        yield Tensors((1, x.inputs) if x.name in inner else (x.outputs, 1), x.copies)


def _norms(get: Get, shape: Shape) -> Iterator[Tensors]:
    """Those that peft chooses for the family, or by name: `norm` is the last one."""
    named = get("target_modules", None)
    sizes = family_of({"model_type": shape.family}).sizes
    of_layer = sizes.norms if sizes is not None else 2
    last = 1
    if _are_words(named):
        of_layer, last = sum(word != "norm" for word in named), int("norm" in named)
    elif shape.family in ("qwen2", "qwen3"):
        of_layer, last = 1, 0
    yield Tensors((shape.hidden,), of_layer * shape.layers + last)


def _trainable_tokens(get: Get, shape: Shape) -> Iterator[Tensors]:
    asked = get("token_indices", ())
    for indices in asked.values() if isinstance(asked, Mapping) else (asked,):
        yield Tensors((len(indices), shape.hidden), outside=True)


def _prompt(get: Get, shape: Shape) -> Iterator[Tensors]:
    yield Tensors((get("num_virtual_tokens", 0), shape.hidden), outside=True)


def _prompt_encoder(get: Get, shape: Shape) -> Iterator[Tensors]:
    wide, hidden = get("encoder_hidden_size", shape.hidden), shape.hidden
    yield from _prompt(get, shape)
    if str(get("encoder_reparameterization_type", "MLP")).rpartition(".")[2] == "LSTM":
        inputs = hidden
        for _ in range(get("encoder_num_layers", 2)):  # both ways
            yield from (Tensors((4 * wide, inputs), 2), Tensors((4 * wide, wide), 2), Tensors((4 * wide,), 4))
            inputs = 2 * wide
        yield from _dense((2 * wide, 2 * wide, hidden))
    else:
        yield from _dense((hidden, wide, wide, hidden))


def _prefix(get: Get, shape: Shape) -> Iterator[Tensors]:
    tokens, all_keys = get("num_virtual_tokens", 0), 2 * shape.layers * shape.key
    if not get("prefix_projection", False):
        yield Tensors((tokens, all_keys), outside=True)
        return
    yield Tensors((tokens, shape.key), outside=True)
    yield from _dense((shape.key, get("encoder_hidden_size", shape.key), all_keys))


def _dense(widths: Iterable[int]) -> Iterator[Tensors]:
    """Linear layers of these widths, with biases."""
    for i, o in pairwise(widths):
        yield from (Tensors((o, i)), Tensors((o,)))


# Config class -> its tensors, by the shape of the model.
_WHOLE: dict[str, Callable[[Get, Shape], Iterator[Tensors]]] = {
    "AdaptionPromptConfig": _adaption_prompt,
    "IA3Config": _ia3,
    "LNTuningConfig": _norms,
    "PrefixTuningConfig": _prefix,
    "PromptEncoderConfig": _prompt_encoder,
    "PromptTuningConfig": _prompt,
    "TrainableTokensConfig": _trainable_tokens,
}
NAMES = frozenset(_OF_MATRIX) | frozenset(_WHOLE)
PROMPTS = frozenset({"PrefixTuningConfig", "PromptEncoderConfig", "PromptTuningConfig"})
