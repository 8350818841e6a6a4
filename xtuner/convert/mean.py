"""The weighted mean of several sets of weights, tensor by tensor.

    iter_100.pth   w  bf16 [4, 2]   0.5 \\
    iter_200.pth   w  bf16 [4, 2]   0.3  }   w  bf16 [4, 2]  0.5 w_100 + 0.3 w_200 + 0.2 w_300, summed in fp32
    iter_300.pth   w  bf16 [4, 2]   0.2 /

A tensor that is the same in all (a frozen base, also a quantised one) stays as it is to the bit. Memory holds
the sum and one tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch

from xtuner.convert.safetensors_stream import TensorInfo
from xtuner.errors import CheckpointError, ConfigError
from xtuner.language import translate


class Tensors(Protocol):
    """Tensors by name, read on access, their dtypes and shapes known before."""

    infos: dict[str, TensorInfo]

    def __getitem__(self, name: str, /) -> torch.Tensor: ...


class Source(NamedTuple):
    """One of the sets that a mean is taken of."""

    path: str  # what errors call it
    tensors: Tensors
    weight: float


def fractions(weights: Sequence[float] | None, count: int) -> list[float]:
    """`count` numbers with the sum 1: `weights` divided by theirs, or all alike."""
    if weights is None:
        return [1 / count] * count
    if len(weights) != count:
        what = "--weights has {given} numbers, and there are {count} sources: give one for each"
        raise ConfigError(translate(what, given=len(weights), count=count))
    if wrong := [w for w in weights if not 0 < w < math.inf]:
        raise ConfigError(
            translate("--weights has {value}: write numbers above 0, such as 0.5,0.3,0.2", value=wrong[0])
        )
    return [weight / sum(weights) for weight in weights]


class Mean(Mapping[str, torch.Tensor]):
    """The weighted mean of `sources` by name, computed on access; CheckpointError if they are not alike."""

    def __init__(self, sources: Sequence[Source]) -> None:
        for other in sources[1:]:
            check_alike(sources[0], other)
        self._sources = sources
        self.infos = sources[-1].tensors.infos

    def __getitem__(self, name: str) -> torch.Tensor:
        info, first, alike = self.infos[name], self._sources[0], self._sources[0].weight
        start = first.tensors[name]
        total: torch.Tensor | None = None
        for source in self._sources[1:]:
            tensor = source.tensors[name]
            if total is None and torch.equal(_bits(tensor), _bits(start)):
                alike += source.weight
                continue
            if not has_mean(info):
                raise CheckpointError(_no_mean(name, info, first.path, source.path))
            if total is None:
                total = _wide(start, name, first.path) * alike
            total.add_(_wide(tensor, name, source.path), alpha=source.weight)
        return start if total is None else total.to(info.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)


def has_mean(info: TensorInfo) -> bool:
    """Whether tensors of this dtype can be averaged; 8 bits have their scale in another tensor."""
    return info.dtype.is_floating_point and info.dtype.itemsize > 1


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of `tensor`: also 8-bit floats can be compared so, and what is no number equals itself."""
    return tensor.contiguous().view(-1).view(torch.uint8)


def _wide(tensor: torch.Tensor, name: str, path: str) -> torch.Tensor:
    """`tensor` in at least fp32."""
    if not tensor.isfinite().all():
        what = "{path}: {name} holds values that are no finite numbers; leave this checkpoint out"
        raise CheckpointError(translate(what, path=path, name=name))
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _no_mean(name: str, info: TensorInfo, path: str, other: str) -> str:
    what = (
        "{name} is {dtype} and differs between {path} and {other}: such numbers have no mean. Average "
        "weights that are not quantised, or adapters"
    )
    return translate(what, name=name, dtype=str(info.dtype).removeprefix("torch."), path=path, other=other)


def check_alike(first: Source, other: Source) -> None:
    """CheckpointError that names the first tensor which both do not have with one shape and dtype."""
    ours, theirs = first.tensors.infos, other.tensors.infos
    for name, info in ours.items():
        if name not in theirs:
            raise CheckpointError(_lacks(other.path, name, first.path))
        if info != theirs[name]:
            what = "{name} is {mine} in {path} and {other} in {there}: they are not of one model"
            raise CheckpointError(
                translate(
                    what,
                    name=name,
                    mine=_said(info),
                    path=first.path,
                    other=_said(theirs[name]),
                    there=other.path,
                )
            )
    if more := next((name for name in theirs if name not in ours), None):
        raise CheckpointError(_lacks(first.path, more, other.path))


def _lacks(path: str, name: str, has: str) -> str:
    what = "{path} has no {name}, which {other} has: they are not of one model"
    return translate(what, path=path, name=name, other=has)


def _said(info: TensorInfo) -> str:
    return f"{str(info.dtype).removeprefix('torch.')} {list(info.shape)}"
