"""Counts what operators on `meta` tensors do, and the bytes that live.

    with counter.phase("forward"):
        model(...)                       each operator: its work, by part and operator
    counter.work[("norm", "mul")]        Work(launches=130, bytes=...)
    counter.peaks["backward", "0"]       the most bytes that lived while layer 0 went backward

Counted are storages of tensors that were given (`hold`) or made while they live. What an allocator has free
between them and what a kernel needs for itself is not.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from on_paper.parts import Nodes, part_of
from on_paper.rules import Work, is_nothing, on_gpu, short_name, work_of

# Rows beyond which bitsandbytes makes 16 bits of a 4-bit matrix first (its CUDA backend).
_FUSED_4BIT_ROWS = 1536


class Counter(TorchDispatchMode):
    """Work by part and operator, peaks by phase and layer."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.work: dict[tuple[str, str], Work] = defaultdict(Work)
        self.peaks: dict[tuple[str, str], int] = defaultdict(int)
        self._phase, self._layer = "", ""
        self._nodes = Nodes()
        self._held: set[int] = set()

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Count the bytes of `tensors` as long as they live."""
        for x in tensors:
            storage = x.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self._held:
                self._held.add(key)
                self.live += size
                weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._held.discard(key)
        self.live -= size

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count operators, as those of that phase."""
        self._phase, self._layer = name, ""
        with self:
            yield

    def watch(self, layers: Iterable[nn.Module]) -> None:
        """Know which of `layers` runs."""
        for number, layer in enumerate(layers):
            layer.register_forward_pre_hook(lambda *_, name=str(number): self._enter(name))
            layer.register_forward_hook(lambda *_: self._enter(""))

    def _enter(self, layer: str) -> None:
        if self._phase == "forward":
            self._layer = layer

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = short_name(func)
        if name == "gemm_4bit" and args[0].numel() > _FUSED_4BIT_ROWS * args[0].shape[-1]:
            with self:
                return gemm_4bit(*args, **kwargs)
        made = _SHAPES.get(name, func)(*args, **kwargs)
        ins, outs = list(on_gpu((args, kwargs))), list(on_gpu(made))
        if ins or outs:
            part, layer = self._where(name)
            self.hold(outs)
            self.peaks[self._phase, layer] = max(self.peaks[self._phase, layer], self.live)
            if not is_nothing(func, ins, outs):
                self.work[part, name].add(work_of(func, args, kwargs, made))
        return made

    def _where(self, name: str) -> tuple[str, str]:
        part = part_of(name)
        if self._phase == "forward":
            self._nodes.note(part, self._layer)
            return part or "other", self._layer
        if self._phase != "backward":
            return part or "other", ""
        made_by, layer = self._nodes.current()
        return part or made_by or "sums of gradients", layer


def gemm_4bit(
    x: Tensor,
    codes: Tensor,
    shape: Any,
    absmax: Tensor,
    block: int,
    kind: str,
    bias: Any = None,
    **nested: Any,
) -> Tensor:
    """The product as bitsandbytes has it for many rows: 16 bits of the matrix, then torch's product."""
    ops = torch.ops.bitsandbytes
    if nested.get("absmax_8bit") is not None:
        code, scales = nested["absmax_code"], nested["absmax_8bit"]
        absmax = ops.dequantize_blockwise(scales, absmax, code, 256, torch.float32) + nested["absmax_offset"]
    weight = ops.dequantize_4bit(codes, absmax, block, kind, shape, x.dtype)
    y = torch.mm(x.reshape(-1, x.shape[-1]), weight.t())  # what F.linear is, below autograd
    return (y if bias is None else y + bias).view(*x.shape[:-1], -1)


def _bincount(x: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """As long as it is asked to be, as there are no values to count."""
    return x.new_empty(minlength)


def _grouped_mm(a: Tensor, b: Tensor, offs: Tensor, *_: Any, **__: Any) -> Tensor:
    """`[rows, n]` of rows in groups and a matrix for each; of groups of columns a matrix for each."""
    return a.new_empty(a.shape[0], b.shape[2]) if b.dim() == 3 else a.new_empty(len(offs), len(a), b.shape[1])


# Operators that torch does not have for `meta`.
_SHAPES = {"bincount": _bincount, "_grouped_mm": _grouped_mm}
