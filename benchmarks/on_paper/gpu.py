"""What a GPU does and `meta` tensors do not, so that the step takes the way that it takes there.

autocast      torch has none for `meta`: products get their inputs in 16 bits here, of a trained weight once
attention     one operator forward and one back, which read and write what FlashAttention does
dropout       torch's fused kernel; random bits without a generator of the device
optimizer     lists of tensors in one kernel
host          layer inputs and an embedding that wait there take none of the GPU's memory
kernels       those of xtuner.model.kernels, where Triton is installed
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@torch.library.custom_op("on_paper::attention", mutates_args=())
def attention(query: Tensor, key: Tensor, value: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
    """Output of `query [N, H, D]`, and of each row and head the sum of exponentials; `pairs` of tokens."""
    raise NotImplementedError


@attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(query), query.new_empty(query.shape[:2], dtype=torch.float32)


@torch.library.custom_op("on_paper::attention_backward", mutates_args=())
def attention_backward(
    query: Tensor, key: Tensor, value: Tensor, out: Tensor, sums: Tensor, grad: Tensor, pairs: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients, and what FlashAttention adds up in 32 bits for that of the queries."""
    raise NotImplementedError


@attention_backward.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, out: Tensor, sums: Tensor, grad: Tensor, pairs: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    wide = torch.empty_like(query, dtype=torch.float32)
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), wide


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, pairs: int) -> Tensor:
        out, sums = attention(query, key, value, pairs)
        ctx.save_for_backward(query, key, value, out, sums)
        ctx.pairs = pairs
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        dq, dk, dv, _ = attention_backward(*ctx.saved_tensors, grad, ctx.pairs)
        return dq, dk, dv, None


def _run(call: Any) -> Tensor:
    lengths = [b - a for a, b in itertools.pairwise(call.boundaries)]
    pairs = sum(n * (n + 1) // 2 for n in lengths)
    return _Attention.apply(*call.rows(), pairs)[None]


@torch.library.custom_op("on_paper::to_host", mutates_args=())
def to_host(x: Tensor) -> None:
    """Copy `x` to the host."""
    raise NotImplementedError


@to_host.register_fake
def _(x: Tensor) -> None:
    pass


@torch.library.custom_op("on_paper::from_host", mutates_args=())
def from_host(like: Tensor, shape: list[int], dtype: torch.dtype) -> Tensor:
    """A tensor of that shape, from the host to the device of `like`, which is not read."""
    raise NotImplementedError


@from_host.register_fake
def _(like: Tensor, shape: list[int], dtype: torch.dtype) -> Tensor:
    return like.new_empty(shape, dtype=dtype)


class _SaveOnHost(torch.autograd.graph.saved_tensors_hooks):
    def __init__(self, pin_memory: bool = False, device_type: str = ""):
        def pack(x: Tensor) -> Any:
            if not x.is_meta:
                return x
            to_host(x)
            return list(x.shape), x.dtype

        def unpack(kept: Any) -> Tensor:
            return kept if isinstance(kept, Tensor) else from_host(torch.empty(0, device="meta"), *kept)

        super().__init__(pack, unpack)


class _EmbeddingOnHost(nn.Module):
    """In place of HostEmbedding, whose table is nowhere here."""

    def __init__(self, embedding: nn.Embedding):
        super().__init__()
        self.width, self.dtype = embedding.embedding_dim, embedding.weight.dtype

    def forward(self, ids: Tensor) -> Tensor:
        return from_host(ids, [*ids.shape, self.width], self.dtype)


_PRODUCTS = {
    torch.nn.functional.linear,
    torch.matmul,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch.Tensor.__rmatmul__,
    torch.mm,
    torch.Tensor.mm,
    torch.bmm,
    torch.Tensor.bmm,
    torch.addmm,
    torch.Tensor.addmm,
    torch.baddbmm,
}
_WIDE = {torch.softmax, torch.nn.functional.softmax, torch.nn.functional.cross_entropy}


class _Autocast(TorchFunctionMode):
    """bf16 where the CPU's autocast is on, which no `meta` tensor heeds; recomputation turns that on too."""

    def __init__(self) -> None:
        super().__init__()
        self._copies: WeakValueDictionary[int, Tensor] = WeakValueDictionary()
        self._kept: list[Tensor] = []
        self._keeps = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.dropout:
            return _dropout(*args, **kwargs)
        if is_autocast_on() and func in _PRODUCTS:
            args = tuple(map(self._in_16_bits, args))
        elif is_autocast_on() and func in _WIDE and args[0].dtype == torch.bfloat16:
            args = (args[0].float(), *args[1:])
        return func(*args, **kwargs)

    def _in_16_bits(self, x: Any) -> Any:
        if not (isinstance(x, Tensor) and x.is_meta and x.dtype == torch.float32):
            return x
        if not (x.is_leaf and x.requires_grad):
            return x.to(torch.bfloat16)
        copy = self._copies.get(id(x))
        if copy is None:
            copy = self._copies[id(x)] = x.to(torch.bfloat16)
            if self._keeps:
                self._kept.append(copy)
        return copy

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """A forward pass: copies of weights are kept until it ends."""
        self._keeps = True
        with torch.autocast("cpu", torch.bfloat16):
            yield
        self._keeps = False
        self._kept.clear()


class _AutocastOf(torch.autocast):
    """torch's, which takes the CPU's for that of `meta`."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any):
        super().__init__("cpu" if device_type == "meta" else device_type, *args, **kwargs)


def is_autocast_on() -> bool:
    """Whether products run in bf16 just now."""
    return _is_autocast_enabled("cpu")


_is_autocast_enabled = torch.is_autocast_enabled


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(x, p, True)[0] if training and p else x


def _compute_dtype(x: Tensor) -> torch.dtype:
    return torch.bfloat16 if is_autocast_on() and x.dtype != torch.float64 else x.dtype


def _random_bits(count: int, seed: int, device: torch.device) -> Tensor:
    words = torch.empty(-(-count // 4), dtype=torch.int64, device=device)
    return words.random_(-(2**63), None).view(torch.int16)[:count]


def _grouped_mm(device: torch.device, dtype: torch.dtype) -> Any:
    return torch.nn.functional.grouped_mm if dtype == torch.bfloat16 else None


@contextlib.contextmanager
def like_a_gpu() -> Iterator[_Autocast]:
    """Within it, `meta` tensors take a GPU's way through XTuner, transformers and torch."""
    from xtuner.model import attention_kernels
    from xtuner.model.fused import dropout, experts

    stand_ins = {
        "torch.is_autocast_enabled": lambda kind="cuda": _is_autocast_enabled(
            "cpu" if kind == "cuda" else kind
        ),
        "torch.autocast": _AutocastOf,
        "torch.autograd.graph.save_on_cpu": _SaveOnHost,
        "torch.optim.optimizer._get_fused_kernels_supported_devices": lambda: ["meta"],
        "torch.utils._foreach_utils._get_foreach_kernels_supported_devices": lambda: ["meta"],
        "xtuner.model.host_embedding.HostEmbedding": _EmbeddingOnHost,
        "xtuner.model.fused.linear._autocast_dtype": _compute_dtype,
    }
    with contextlib.ExitStack() as stack:
        for name, value in stand_ins.items():
            stack.enter_context(mock.patch(name, value))
        kernels = (attention_kernels.Kernel(lambda call: True, _run),)
        stack.enter_context(mock.patch.object(attention_kernels, "KERNELS", kernels))
        stack.enter_context(mock.patch.object(dropout, "_random_bits", _random_bits))
        stack.enter_context(mock.patch.object(experts, "_kernel", _grouped_mm))
        if has_kernels():
            _use_kernels(stack)
        yield stack.enter_context(_Autocast())


def has_kernels() -> bool:
    """Whether XTuner has kernels of its own and Triton is there to define them."""
    return all(importlib.util.find_spec(name) for name in ("xtuner.model.kernels", "triton"))


def _use_kernels(stack: contextlib.ExitStack) -> None:
    from xtuner.model import kernels

    asked = kernels.available
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("xtuner.model.") and (
            getattr(module, "available", None) is asked
        ):
            stack.enter_context(mock.patch.object(module, "available", lambda x: x.is_meta))
