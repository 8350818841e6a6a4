"""Plan the changes that an adapter makes to its base's weights, and apply them a few rows at a time.

    adapter tensor                                     changes           by
    base_model.model.X.lora_A.weight  [r, in]      \\
    base_model.model.X.lora_B.weight  [out, r]      }  X.weight          W + scaling * B @ A
    base_model.model.X.lora_magnitude_vector [out] /                     m * V / |V|, V = the above  (DoRA)
    base_model.model.X.lora_embedding_A, _B            X.weight          W + scaling * (B @ A).T
    base_model.model.X.lora_B.bias                     X.bias            b + scaling * bias
    base_model.model.X.base_layer.bias                 X.bias            replaced
    base_model.model.X.base_layer.weight               X.weight          replaced, then B @ A added
    base_model.model.X.weight (modules_to_save)        X.weight          replaced
    base_model.model.X.experts.lora_A.weight  [E r, in] \
    base_model.model.X.experts.lora_B.weight  [out, E r] } X.experts.P   W[e] + scaling * B[e] @ A[e]

The names do not contain the parameter P of an experts module: it follows from the order in which peft wraps
them (`Packed`).

Formulas: LoRA https://arxiv.org/abs/2106.09685, rsLoRA https://arxiv.org/abs/2312.03732, DoRA
https://arxiv.org/abs/2402.09353; file layout and per-module patterns as peft writes and reads them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from xtuner.convert.safetensors_stream import TensorInfo
from xtuner.convert.weights import Weights
from xtuner.errors import ModelError, NotFoundError
from xtuner.language import translate
from xtuner.model.state import is_other_way_round

_PREFIX = "base_model.model."
_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector(\.weight)?|base_layer\.weight)"
)
EMBEDDINGS = ("embed_tokens", "tok_embeddings", "wte", "embed_in", "word_embeddings")
HEADS = ("lm_head", "output", "embed_out")
_CHUNK = 8 * 1024 * 1024  # elements of W converted to fp32 at once: 32 MB
# Settings under which base + adapter is not W + scaling * B @ A.
_UNMERGEABLE = (
    "trainable_token_indices",
    "layer_replication",
    "alora_invocation_tokens",
    "use_qalora",
    "arrow_config",
)
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq")


@dataclass(frozen=True)
class Adapter:
    """An adapter folder: its `adapter_config.json` and its tensors, read on access."""

    folder: Path
    config: dict
    weights: Weights


@dataclass(frozen=True)
class LowRank:
    """W <- W + scaling * B @ A; on W's transpose if `transposed`; DoRA if `magnitude` is set."""

    a: str
    b: str
    scaling: float
    transposed: bool = False
    magnitude: str | None = None
    over: str | None = None  # a W in the adapter: peft saves embeddings beside their LoRA


@dataclass(frozen=True)
class Experts:
    """W[e] <- W[e] + scaling * B[e] @ A[e] for `count` experts; on W[e]'s transpose if `transposed`."""

    a: str
    b: str
    scaling: float
    count: int
    transposed: bool


@dataclass(frozen=True)
class Packed:
    """A parameter that holds all experts of a layer: its name, and whether W[e] is [in, out]."""

    parameter: str
    transposed: bool


@dataclass(frozen=True)
class Replace:
    """W <- the adapter's tensor."""

    key: str


@dataclass(frozen=True)
class AddBias:
    """b <- b + scaling * the adapter's bias."""

    key: str
    scaling: float


Change = LowRank | Experts | Replace | AddBias


def read_adapter(folder: Path) -> Adapter:
    """The adapter in `folder`; NotFoundError if there is none, ModelError if it cannot be merged."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise NotFoundError(
            translate(
                "{folder} has no adapter_config.json: give the folder that pth_to_hf wrote.", folder=folder
            )
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ModelError(translate("{path} is not valid JSON: {error}", path=path, error=e)) from e
    if config.get("peft_type") != "LORA":
        raise ModelError(
            translate(
                "{path}: peft_type is {kind!r}; only LORA adapters can be merged.",
                path=path,
                kind=config.get("peft_type"),
            )
        )
    for key in _UNMERGEABLE:
        if config.get(key):
            raise ModelError(
                translate(
                    "{path}: an adapter with {key} cannot be merged; use it beside its base instead.",
                    path=path,
                    key=key,
                )
            )
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(_CHANGED_BASE):
        raise ModelError(
            translate(
                "{path}: init_lora_weights is {init!r}, which changes the base before training; "
                "convert the adapter first (peft: "
                "save_pretrained(path_initial_model_for_weight_conversion=...)).",
                path=path,
                init=init,
            )
        )
    return Adapter(folder, config, Weights(folder))


def scaling_of(config: dict, module: str) -> float:
    """The factor of B @ A in `module`, from the adapter's alpha, rank and their patterns."""
    alpha = _by_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha", 8))
    rank = rank_of(config, module)
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def rank_of(config: dict, module: str) -> int:
    """The rank that the adapter's config gives `module`."""
    return _by_pattern(config.get("rank_pattern"), module, config["r"])


def _by_pattern(patterns: dict[str, Any] | None, module: str, default: Any) -> Any:
    for pattern, value in (patterns or {}).items():
        # peft may name a layer by its weight.
        if any(re.match(rf"(.*\.)?({pattern})$", name) for name in (module, f"{module}.weight")):
            return value
    return default


class NotInBaseError(ModelError):
    """The adapter changes a weight `name` that the base does not have."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name


def plan_changes(
    adapter: Adapter,
    base: Mapping[str, TensorInfo],
    base_name: str,
    packed: Mapping[str, Packed] | None = None,
) -> dict[str, Change]:
    """Weight of `base` -> its change; NotInBaseError if the adapter was made for another base.

    `packed`: names of the adapter's modules that adapt packed experts -> the parameters they adapt.
    """
    infos = adapter.weights.infos
    parts: dict[str, dict[str, str]] = {}
    changes: dict[str, Change] = {}
    for key in infos:
        name = key.removeprefix(_PREFIX)
        match = _PART.fullmatch(name)
        if match:
            parts.setdefault(match["module"], {})[match["part"].removesuffix(".weight")] = key
            continue
        if "lora_" in name:
            raise ModelError(
                translate(
                    "{folder} holds {key}, an unknown kind of LoRA weight.", folder=adapter.folder, key=key
                )
            )
        target = _find(name.replace(".base_layer.", "."), base, adapter, base_name)
        if not has_more_tokens(target, infos[key].shape, base[target].shape):
            _same_shape(target, infos[key].shape, base[target].shape, adapter, base_name)
        changes[target] = Replace(key)
    transposed = _is_transposed(parts, infos, base, adapter.config)
    for module, keys in parts.items():
        if packed and module in packed:
            parameter = packed[module].parameter
            changes[parameter] = _change_of_experts(packed[module], keys, adapter, base[parameter], base_name)
        else:
            changes.update(_changes_of_module(module, keys, transposed, adapter, base, base_name))
    return changes


def has_more_tokens(name: str, made_for: tuple, has: tuple) -> bool:
    """Whether an embedding or head was trained with more tokens than the base's `name` has rows."""
    is_end = name.split(".")[-2:-1] and name.split(".")[-2] in (*EMBEDDINGS, *HEADS)
    return bool(is_end) and made_for[1:] == has[1:] and made_for[0] > has[0]


def _change_of_experts(
    packed: Packed, keys: dict[str, str], adapter: Adapter, info: TensorInfo, base_name: str
) -> Change:
    a, b = keys["lora_A"], keys["lora_B"]
    if len(info.shape) == 2:  # a router's weight
        return LowRank(a, b, scaling_of(adapter.config, packed.parameter))
    shapes = adapter.weights.infos[a].shape, adapter.weights.infos[b].shape
    rank = rank_of(adapter.config, packed.parameter)
    count = info.shape[0]
    transposed = packed.transposed != is_other_way_round(
        adapter.config.get("peft_version"), packed.transposed
    )
    inputs, outputs = info.shape[1:] if transposed else info.shape[:0:-1]
    if shapes != ((count * rank, inputs), (outputs, count * rank)):
        raise ModelError(
            translate(
                "the adapter {folder} has lora_A {a} and lora_B {b} for {parameter}; rank {rank} for "
                "{count} experts of the base {base_name} is [{rows}, {inputs}] and [{outputs}, "
                "{rows}]: it was trained on another base ({named}).",
                folder=adapter.folder,
                a=list(shapes[0]),
                b=list(shapes[1]),
                parameter=packed.parameter,
                rank=rank,
                count=count,
                base_name=base_name,
                rows=count * rank,
                inputs=inputs,
                outputs=outputs,
                named=_named_base(adapter),
            )
        )
    return Experts(a, b, scaling_of(adapter.config, packed.parameter), count, transposed)


def _changes_of_module(
    module: str,
    keys: dict[str, str],
    transposed: bool,
    adapter: Adapter,
    base: Mapping[str, TensorInfo],
    base_name: str,
) -> dict[str, Change]:
    infos, config = adapter.weights.infos, adapter.config
    embedding = "lora_embedding_A" in keys
    a, b = (keys.get(f"lora_{'embedding_' if embedding else ''}{x}") for x in "AB")
    if a is None or b is None:
        raise ModelError(
            translate(
                "{folder}: {module} has only one of lora_A and lora_B; the adapter is damaged.",
                folder=adapter.folder,
                module=module,
            )
        )
    rank = rank_of(config, module)
    if infos[a].shape[0] != rank or infos[b].shape[1] != rank or len(infos[a].shape) != 2:
        raise ModelError(
            translate(
                "{folder}: {module} has lora_A of shape {shape}, but adapter_config.json gives it "
                "rank {rank}; only rank x in matrices of linear and embedding layers can be merged.",
                folder=adapter.folder,
                module=module,
                shape=list(infos[a].shape),
                rank=rank,
            )
        )
    target = _find(f"{module}.weight", base, adapter, base_name)
    transposed = transposed or embedding
    made_for = (infos[b].shape[0], infos[a].shape[1])
    _same_shape(target, made_for[::-1] if transposed else made_for, base[target].shape, adapter, base_name)
    scaling = scaling_of(config, module)
    changes: dict[str, Change] = {
        target: LowRank(a, b, scaling, transposed, keys.get("lora_magnitude_vector"), keys.get("base_layer"))
    }
    if "lora_B.bias" in keys:
        if target.removesuffix("weight") + "bias" not in base:
            raise ModelError(
                translate(
                    "the adapter {folder} has a bias for {module} (lora_bias), and that layer of the "
                    "base {base_name} has none: no merged model can hold it. Use the adapter beside its "
                    "base.",
                    folder=adapter.folder,
                    module=module,
                    base_name=base_name,
                )
            )
        bias = _find(f"{module}.bias", base, adapter, base_name)
        changes[bias] = AddBias(keys["lora_B.bias"], scaling)
    return changes


def _find(name: str, base: Mapping[str, TensorInfo], adapter: Adapter, base_name: str) -> str:
    """`name` in the base's files: unchanged, without its first part (no head saved) or with CLIP's prefix."""
    for spelled in (name, name.partition(".")[2], f"vision_model.{name}"):
        if spelled in base:
            return spelled
    raise NotInBaseError(
        f"the adapter {adapter.folder} changes {name}, which the base {base_name} does not have: it was "
        f"trained on another base ({_named_base(adapter)}).",
        name,
    )


def _same_shape(name: str, made_for: tuple, has: tuple, adapter: Adapter, base_name: str) -> None:
    if tuple(made_for) != tuple(has):
        raise ModelError(
            translate(
                "the adapter {folder} fits a {name} of shape {shape}, but the base {base_name} has "
                "{has}: it was trained on another base ({named}).",
                folder=adapter.folder,
                name=name,
                shape=list(made_for),
                base_name=base_name,
                has=list(has),
                named=_named_base(adapter),
            )
        )


def _named_base(adapter: Adapter) -> str:
    named = adapter.config.get("base_model_name_or_path")
    return translate("its adapter_config.json names {named}", named=named)


def _is_transposed(parts: dict, infos: dict, base: Mapping[str, TensorInfo], config: dict) -> bool:
    """Whether the base's matrices are [in, out] (GPT-2), by the first one that is not square."""
    for module, keys in parts.items():
        a, b = keys.get("lora_A"), keys.get("lora_B")
        info = base.get(f"{module}.weight") or base.get(f"{module}.weight".partition(".")[2])
        if a is None or b is None or info is None:
            continue
        made_for = (infos[b].shape[0], infos[a].shape[1])
        if made_for[0] != made_for[1] and info.shape in (made_for, made_for[::-1]):
            return info.shape == made_for[::-1]
    return bool(config.get("fan_in_fan_out"))


class Changer:
    """Applies changes in fp32 on `device`; weights on the CPU keep their dtype and are overwritten."""

    def __init__(self, adapter: Weights, device: torch.device) -> None:
        self.adapter = adapter
        self.device = device
        self._factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def apply(self, weight: torch.Tensor, change: Change, first: int | None = None) -> torch.Tensor:
        """`weight` after the change; with `first`, `weight` holds the packed experts from that number on."""
        if isinstance(change, Replace):
            whole = self.adapter[change.key].to(weight.dtype)
            return whole if first is None else whole[first : first + len(weight)]
        if isinstance(change, AddBias):
            return (weight.float() + change.scaling * self.adapter[change.key].float()).to(weight.dtype)
        if isinstance(change, Experts):
            return self._add_to_experts(weight, change, first or 0)
        return self._add(weight, change)

    def _read(self, key: str) -> torch.Tensor:
        return self.adapter[key].to(self.device, torch.float32)

    def _add_to_experts(self, weight: torch.Tensor, change: Experts, first: int) -> torch.Tensor:
        a, b = self._factors_of(change)
        for i, own in enumerate(weight, start=first):
            matrix = own.T if change.transposed else own
            merged = torch.addmm(matrix.to(self.device, torch.float32), b[:, :, i], a[i])
            matrix.copy_(merged)
        return weight

    def _factors_of(self, change: Experts) -> tuple[torch.Tensor, torch.Tensor]:
        """A `[E, r, in]` and B `[out, r, E]`; cached for files that hold single experts."""
        if change.a not in self._factors:
            while len(self._factors) > 1:
                del self._factors[next(iter(self._factors))]
            a, b = self._read(change.a), self._read(change.b) * change.scaling
            self._factors[change.a] = a.view(change.count, -1, a.shape[1]), b.view(len(b), -1, change.count)
        return self._factors[change.a]

    def _add(self, weight: torch.Tensor, change: LowRank) -> torch.Tensor:
        a, b = self._read(change.a), self._read(change.b) * change.scaling
        if change.over:
            weight = self.adapter[change.over].to(weight.dtype)
        magnitude = self._read(change.magnitude) if change.magnitude else None
        rows_of = weight.T if change.transposed else weight
        num_rows = max(1, _CHUNK // max(1, rows_of.shape[1]))
        for start in range(0, len(rows_of), num_rows):
            rows = slice(start, start + num_rows)
            merged = rows_of[rows].to(self.device, torch.float32).addmm(b[rows], a)
            if magnitude is not None:
                merged *= (magnitude[rows] / merged.norm(dim=1)).unsqueeze(1)
            rows_of[rows] = merged.to(weight.dtype).cpu()
        return weight
