"""An adapter whose product is exactly the weighted mean of the products of others.

    adapter 1   A1 [r1, in], B1 [out, r1], factor s1       A = [A1; A2]               [r1 + r2, in]
    adapter 2   A2 [r2, in], B2 [out, r2], factor s2  -->  B = [c1 B1 / c, c2 B2 / c] [out, r1 + r2]
                                                           factor c = max(c1, c2), where ci = wi * si

    c * B @ A  =  w1 * s1 * B1 @ A1  +  w2 * s2 * B2 @ A2

Where all ci are alike, as in one run with equal weights, A and B are joined without any rounding.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from xtuner.convert.folders import copy_other_files
from xtuner.convert.lora import Adapter, rank_of, read_adapter, scaling_of
from xtuner.convert.mean import Mean, Source
from xtuner.convert.output import new_folder
from xtuner.convert.safetensors_stream import TensorInfo
from xtuner.convert.weights import write_file
from xtuner.errors import CheckpointError
from xtuner.language import translate

_BASE = "base_model.model."
_FACTORS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")
# Settings that change what A and B compute.
_SETTINGS = (
    "peft_type",
    "target_modules",
    "target_parameters",
    "modules_to_save",
    "bias",
    "lora_bias",
    "use_dora",
    "fan_in_fan_out",
    "layers_to_transform",
)
_SIZES = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")


def check_settings(configs: Sequence[tuple[Path, Mapping[str, Any]]], names: Sequence[str] = ()) -> None:
    """CheckpointError that names the first setting in which adapters differ; `names`: those to compare."""
    for (first, settings), (path, other) in itertools.pairwise(configs):
        for name in names or (*_SETTINGS, *_SIZES):
            mine, theirs = _normal(settings.get(name)), _normal(other.get(name))
            if mine != theirs:
                what = "{name} is {mine} in {path} and {theirs} in {other}: A and B then have no mean{cure}"
                cure = translate("; --exact joins them") if name in _SIZES else ""
                raise CheckpointError(
                    translate(what, name=name, mine=mine, path=first, theirs=theirs, other=path, cure=cure)
                )


def _normal(value: Any) -> Any:
    """`value` as lists without an order, and nothing where it says nothing."""
    return sorted(value) if isinstance(value, list) else value or None


class _Joined(NamedTuple):
    """How one module of the adapters becomes one."""

    ranks: list[int]
    factors: list[float]  # ci of each adapter

    @property
    def rank(self) -> int:
        return sum(self.ranks)

    @property
    def factor(self) -> float:
        return max(self.factors)

    @property
    def is_plain(self) -> bool:
        return min(self.factors) == max(self.factors)


def write_exact(folders: Sequence[Path], parts: Sequence[float], out: Path) -> None:
    """Write the adapter that is the mean of those in `folders`, with the files of the last one beside it."""
    adapters = [read_adapter(folder) for folder in folders]
    check_settings([(adapter.folder, adapter.config) for adapter in adapters], _SETTINGS)
    for adapter in adapters:
        _check_kind(adapter)
    sources = [Source(str(a.folder), _Others(a), part) for a, part in zip(adapters, parts, strict=True)]
    mean, joined = Mean(sources), {}
    for name in adapters[-1].weights.infos:
        if _factor_of(name) in _FACTORS or name.endswith("lora_B.bias"):
            joined[module_of(name)] = _join(module_of(name), adapters, parts)
    infos = {name: _info_of(name, adapters, joined) for name in adapters[-1].weights.infos}
    load = partial(_load, adapters=adapters, joined=joined, mean=mean, infos=infos)
    total = sum(info.num_bytes for info in infos.values())
    with new_folder(out, sources=tuple(folders), num_bytes=total) as folder:
        (file,) = adapters[-1].weights.by_file()
        write_file(folder / file, infos, load)
        copy_other_files(folders[-1], folder)
        config = adapters[-1].config | _sizes(joined)
        (folder / "adapter_config.json").write_text(
            json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8"
        )


class _Others:
    """The tensors of an adapter that are no factors: their mean is the mean of what they do."""

    def __init__(self, adapter: Adapter) -> None:
        self._weights = adapter.weights
        # The factors too, with the shapes that must agree, so that names are compared once.
        self.infos = {
            name: info._replace(dtype=torch.float32, shape=_without_rank(name, info.shape))
            if _factor_of(name) in _FACTORS
            else info
            for name, info in adapter.weights.infos.items()
        }

    def __getitem__(self, name: str, /) -> torch.Tensor:
        return self._weights[name]


def _check_kind(adapter: Adapter) -> None:
    for key in ("use_dora", "target_parameters"):
        if adapter.config.get(key):
            what = (
                "{path} has {key}: no adapter is the exact mean of such; merge each into its base and "
                "average the models"
            )
            raise CheckpointError(translate(what, path=adapter.folder, key=key))


def module_of(name: str) -> str:
    """The module that the tensor `name` of an adapter belongs to, as the model names it."""
    return name.removeprefix(_BASE).partition(".lora_")[0]


def _factor_of(name: str) -> str:
    """`lora_A` of `base_model.model.X.lora_A.weight`; `""` of other tensors."""
    ends = name.removesuffix(".weight").rpartition(".")[2]
    return ends if ends in _FACTORS else ""


def _rank_dim(name: str) -> int:
    return 0 if _factor_of(name).endswith("A") else 1


def _without_rank(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for dim, size in enumerate(shape) if dim != _rank_dim(name))


def _join(module: str, adapters: Sequence[Adapter], parts: Sequence[float]) -> _Joined:
    ranks = [rank_of(adapter.config, module) for adapter in adapters]
    scalings = [scaling_of(adapter.config, module) for adapter in adapters]
    return _Joined(ranks, [part * s for part, s in zip(parts, scalings, strict=True)])


def _info_of(name: str, adapters: Sequence[Adapter], joined: Mapping[str, _Joined]) -> TensorInfo:
    infos = [adapter.weights.infos[name] for adapter in adapters]
    if not _factor_of(name):
        return infos[-1]
    how = joined[module_of(name)]
    shape, dim = list(infos[-1].shape), _rank_dim(name)
    for adapter, info, rank in zip(adapters, infos, how.ranks, strict=True):
        if info.shape[dim] != rank:
            what = "{path}: {name} has rank {has}, not {rank} as in adapter_config.json: it is damaged"
            raise CheckpointError(
                translate(what, path=adapter.folder, name=name, has=info.shape[dim], rank=rank)
            )
    shape[dim] = how.rank
    alike = len({info.dtype for info in infos}) == 1
    # A factor would round 16 bits once more.
    dtype = infos[-1].dtype if alike and (dim == 0 or how.is_plain) else torch.float32
    return TensorInfo(dtype, tuple(shape))


def _load(
    name: str,
    *,
    adapters: Sequence[Adapter],
    joined: Mapping[str, _Joined],
    mean: Mean,
    infos: Mapping[str, TensorInfo],
) -> torch.Tensor:
    dtype = infos[name].dtype
    how = joined.get(module_of(name))
    if how and name.endswith("lora_B.bias"):
        biases = [a.weights[name].double() * c for a, c in zip(adapters, how.factors, strict=True)]
        return (torch.stack(biases).sum(0) / how.factor).to(dtype)
    if not how or not _factor_of(name):
        return mean[name]
    tensors = [adapter.weights[name] for adapter in adapters]
    if _rank_dim(name) == 1 and not how.is_plain:
        tensors = [t.double() * (c / how.factor) for t, c in zip(tensors, how.factors, strict=True)]
    return torch.cat([tensor.to(dtype) for tensor in tensors], _rank_dim(name))


def _sizes(joined: Mapping[str, _Joined]) -> dict[str, Any]:
    """The settings of rank and alpha; those of most modules once, the others by their names."""
    sizes = {module: (how.rank, _rounded(how.factor * how.rank)) for module, how in joined.items()}
    rank, alpha = max(sizes.values(), key=list(sizes.values()).count)
    ranks = {module: own for module, (own, _) in sizes.items() if own != rank}
    alphas = {module: own for module, (_, own) in sizes.items() if own != alpha}
    return {
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": False,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
    }


def _rounded(number: float) -> float:
    """`number`, without what the computation has added to a whole one."""
    return round(number) if math.isclose(number, round(number), rel_tol=1e-12) else number
