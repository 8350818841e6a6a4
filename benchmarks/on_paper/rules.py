"""What one operator moves and launches on a GPU, from the tensors that it is given and makes.

    any operator    reads each input once, writes each output once, in one launch; so do operators of others
    view, empty     nothing
    in place        what it changes is read and written; written alone where its old value does not matter
    rows by index   of the table, the rows that are taken
    products        apart from all other traffic, with their floating point operations

A tensor that is repeated without a copy (stride 0) is read once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass
class Work:
    """Of operators: kernels, bytes, floating point operations, and waits of the host for the GPU."""

    launches: float = 0
    bytes: int = 0
    product_bytes: int = 0
    flop: int = 0
    attention_flop: int = 0
    waits: int = 0

    def add(self, other: Work) -> None:
        """Add the work of `other`."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "_grouped_mm"}
_WRITTEN_ALONE = {"copy_", "zero_", "fill_", "random_", "uniform_", "normal_", "bernoulli_", "exponential_"}
# Of the first tensor as much as the output has.
_READS_ROWS = {"embedding", "index_select", "gather", "index"}
# Of the first tensor as much as the given values have: read too, or not.
_WRITES_ROWS = {"scatter_": 1, "index_put_": 1, "index_copy_": 1, "index_add_": 2, "scatter_add_": 2}
# Operators that start more than one kernel. Sorting: a radix sort. A slice's gradient: zeros, then a copy.
_LAUNCHES = {
    "slice_backward": 2,
    "select_backward": 2,
    "embedding_dense_backward": 4,
    "sort": 6,
    "argsort": 6,
    "topk": 3,
    "attention_backward": 5,
}
# Operators for whose result the host waits: bincount reads the smallest and the largest number.
_WAITS = {"bincount": 2, "nonzero": 1, "_local_scalar_dense": 1}
# A kernel for lists of tensors takes so many tensors and blocks of 65,536 numbers at a time (CUDA's
# MultiTensorApply.cuh, by how many lists there are).
_LIST_BLOCK, _LIST_BLOCKS, _LIST_TENSORS = 65536, 320, {1: 110, 2: 64, 3: 48, 4: 36}


def is_nothing(func: Any, ins: Sequence[Tensor], outs: Sequence[Tensor]) -> bool:
    """Whether the operator makes no number: a view, or memory without values."""
    name = short_name(func)
    if name.startswith(("empty", "new_empty")) or name in ("set_", "resize_", "detach_"):
        return True
    old = {x.untyped_storage()._cdata for x in ins}
    return bool(outs) and not func._schema.is_mutable and all(x.untyped_storage()._cdata in old for x in outs)


def work_of(func: Any, args: tuple, kwargs: dict[str, Any], out: Any) -> Work:
    """What one call of the operator `func` takes."""
    name = short_name(func)
    read, written = _read_and_written(func, args, kwargs, out)
    outs = _tensors(out)
    if name in _READS_ROWS:
        read[0] = outs[0]
    size = sum(map(_bytes, read)) + sum(map(_bytes, written))
    if name in ("slice_backward", "select_backward"):  # zeros, then a copy into them
        size += sum(map(_bytes, read))
    if name in _WRITES_ROWS:
        table, values = _tensors(args)[0], _tensors(args)[-1]
        size += _WRITES_ROWS[name] * _bytes(values) - 2 * _bytes(table)
    if name.removesuffix("_") in _PRODUCTS:
        return Work(1, 0, size, _flop(args))
    if func._schema.name.startswith("on_paper::attention"):
        return Work(_launches(name, args), size, attention_flop=_attention_flop(name, args))
    return Work(_launches(name, args), size, waits=_waits(name, args, kwargs))


def short_name(func: Any) -> str:
    """`add_` of `aten::add_.Tensor`."""
    return func._schema.name.rpartition("::")[2]


def _read_and_written(
    func: Any, args: tuple, kwargs: dict[str, Any], out: Any
) -> tuple[list[Tensor], list[Tensor]]:
    read, written = {}, {id(x): x for x in _tensors(out)}
    alone = short_name(func) in _WRITTEN_ALONE
    for i, argument in enumerate(func._schema.arguments):
        value = args[i] if i < len(args) else kwargs.get(argument.name)
        changes = argument.alias_info is not None and argument.alias_info.is_write
        for x in _tensors(value):
            if changes:
                written[id(x)] = x
            if not changes or not (alone or argument.kwarg_only):
                read[id(x)] = x
    return list(read.values()), list(written.values())


def on_gpu(value: Any) -> Iterator[Tensor]:
    """The `meta` tensors in arguments or results of an operator; those of the host are none."""
    if isinstance(value, Tensor):
        if value.is_meta:
            yield value
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from on_gpu(inner)
    elif isinstance(value, dict):
        yield from on_gpu(list(value.values()))


def _tensors(value: Any) -> list[Tensor]:
    return list(on_gpu(value))


def _bytes(x: Tensor) -> int:
    sizes = zip(x.shape, x.stride(), strict=True)
    return math.prod(size for size, stride in sizes if stride or not size) * x.element_size()


def _flop(args: tuple) -> int:
    a, b = [x for x in _tensors(args) if x.dim() >= 2 and x.is_floating_point()][-2:]
    return 2 * a.numel() * b.shape[-1]


def _attention_flop(name: str, args: tuple) -> int:
    query, pairs = args[0], args[-1]
    products = 5 if name.endswith("backward") else 2
    return products * 2 * pairs * query.shape[-2] * query.shape[-1]


def _waits(name: str, args: tuple, kwargs: dict[str, Any]) -> int:
    if name == "_to_copy" and not args[0].is_meta:  # from memory that is not pinned
        return not kwargs.get("non_blocking")
    return _WAITS.get(name, 0)


def _launches(name: str, args: tuple) -> float:
    if not name.startswith(("_foreach", "_fused_adam")):
        return _LAUNCHES.get(name, 1)
    lists = [value for value in args if isinstance(value, (list, tuple)) and _tensors(value)]
    first = _tensors(lists[0])
    blocks = sum(-(-x.numel() // _LIST_BLOCK) for x in first) / _LIST_BLOCKS
    # Not rounded, so that a model's launches grow evenly with its layers.
    return max(blocks, len(first) / _LIST_TENSORS[min(4, len(lists))])
