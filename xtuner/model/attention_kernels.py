"""The kernels of attention on a pack, best first: each checks which calls it supports, and runs them.

    FlashAttention 3      a Hopper GPU, 16 bits, no dropout              installed by the user
    FlashAttention 2      a GPU, 16 bits                                 installed by the user
    torch's varlen        a GPU, 16 bits, no dropout, no soft cap        torch 2.12 and later
    FlexAttention         a GPU, no dropout: caps, sinks, biases too     flex.py
    blocks                a CPU, only causal                             fused/segments.py
    runs                  everything: one causal call of torch for each run of equally long samples,
                          blocks of queries under a window, a soft cap or sinks; on xpu, npu and mps too

A bias for each key becomes columns of queries and keys for the last two, which know none: their product adds
it. None of them holds a square mask of the whole sequence. On mps torch itself holds the scores of a sample.
The kernels for a GPU are for `cuda`: FlashAttention is written for it, torch's varlen calls FlashAttention,
and FlexAttention has no backward pass on mps, does not exist on npu, and was not tried on xpu.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import dropout as apply_dropout
from torch.nn.functional import pad, scaled_dot_product_attention

from xtuner.log import say_once
from xtuner.model import flex
from xtuner.model.fused.segments import packed_causal
from xtuner.model.packed import to_device

# Queries whose scores are computed at one time if a window or a soft cap rules out the fused kernel.
QUERY_BLOCK = 1024
# What a bias widens queries and keys by: three are filled in 16 bits, and kernels read eight at a time.
BIAS_COLUMNS = 8


@dataclass(frozen=True)
class Call:
    """Causal attention of one pack: `query [1, H, N, D]`, `key` and `value` may have fewer heads.

    `starts`: the boundaries of the samples, int32 on the device of `query`; `boundaries`: on the host;
    `longest`: the length of the longest.
    `window`: the number of keys for a query, including its own. `softcap`: scores are squeezed into
    (-softcap, softcap). `sinks [H]`: for each head a score that no token has. `key_bias [H, N]`: what each
    key's scores gain in each head of the queries, without a gradient.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    starts: Tensor
    boundaries: Sequence[int]
    longest: int
    scaling: float | None = None
    dropout: float = 0.0
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
    key_bias: Tensor | None = None

    def in_chunks(self, chunk: int) -> Call:
        """The same call with attention within chunks, counted from the sample's first token."""
        if chunk >= self.longest:
            return self
        boundaries = _cut(self.boundaries, chunk)
        starts = to_device(np.array(boundaries, np.int32), self.query.device)
        return dataclasses.replace(self, starts=starts, boundaries=boundaries, longest=chunk)

    def with_bias_as_columns(self) -> Call:
        """The same call without `key_bias`: query times key adds it, as exactly as fp32 does."""
        if self.key_bias is None:
            return self
        assert self.softcap is None, "a bias is added to scores after they are capped"
        query, key, value = self.query, self.key, self.value
        scale = query.shape[-1] ** -0.5 if self.scaling is None else self.scaling
        # A power of two near 1 / scale loses nothing in a product.
        factor = 2.0 ** math.ceil(-math.log2(scale))
        wide = torch.float64 if query.dtype == torch.float64 else torch.float32
        left, parts = self.key_bias.to(wide) / (scale * factor), []
        for _ in range(3 if query.element_size() == 2 else 1):  # of 16 bits
            parts.append(left.to(query.dtype))
            left = left - parts[-1]
        columns = torch.stack(parts, -1)[None]
        ones = torch.full_like(columns, factor)
        missing = (0, BIAS_COLUMNS - len(parts))
        groups = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (key, value))
        return dataclasses.replace(
            self,
            query=torch.cat([query, pad(ones, missing)], -1),
            key=torch.cat([key, pad(columns, missing)], -1),
            value=value,
            scaling=scale,
            key_bias=None,
        )

    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value as `[N, H, D]`."""
        # The gradient of a squeeze is a view; that of an index is a copy between zeros.
        return tuple(x.squeeze(0).transpose(0, 1) for x in (self.query, self.key, self.value))  # type: ignore[return-value]


@dataclass(frozen=True)
class Kernel:
    """`run` returns the output `[1, N, H, D]` of a supported call."""

    fits: Callable[[Call], bool]
    run: Callable[[Call], Tensor]
    name: str = ""


# A list, not a stack: runs that are trained together begin and end in any order.
_noting: list[set[str]] = []


@contextlib.contextmanager
def noting_kernels() -> Iterator[set[str]]:
    """The names of the kernels that run within it, but for those in compiled code."""
    found: set[str] = set()
    _noting.append(found)
    try:
        yield found
    finally:
        _noting[:] = [others for others in _noting if others is not found]


def packed_attention(call: Call) -> Tensor:
    """`[1, N, H, D]`, by the first kernel that supports the call."""
    kernel = next(kernel for kernel in KERNELS if kernel.fits(call))
    # Compiled code would be compiled again when nobody notes any more.
    if not torch.compiler.is_compiling():
        for found in _noting:
            found.add(kernel.name)
    return kernel.run(call)


def _cut(boundaries: Sequence[int], chunk: int) -> list[int]:
    """`boundaries` with additional ones inside each sample, `chunk` tokens apart."""
    starts = [i for a, b in itertools.pairwise(boundaries) for i in range(a, b, chunk)]
    return [*starts, boundaries[-1]]


def _suits_fused_kernels(call: Call) -> bool:
    query, size = call.query, call.query.shape[-1]
    is_half = query.dtype in (torch.float16, torch.bfloat16)
    is_plain = call.sinks is None and call.key_bias is None and size == call.value.shape[-1] and size <= 256
    return runs_flash_attention(query.device) and is_half and is_plain


def runs_flash_attention(device: torch.device) -> bool:
    """Whether FlashAttention's kernels are written for the kind of `device`."""
    return device.type == "cuda"


def _fits_flash3(call: Call) -> bool:
    if not _suits_fused_kernels(call) or call.dropout:
        return False
    # AMD's cards have such numbers too: the MI200 and MI300 are 9.
    is_hopper = torch.version.hip is None and torch.cuda.get_device_capability(call.query.device)[0] == 9
    return is_hopper and _flash_function("flash_attn_interface") is not None


def _fits_flash2(call: Call) -> bool:
    return _suits_fused_kernels(call) and _flash_function("flash_attn") is not None


@functools.cache
def _flash_function(package: str) -> Callable[..., Any] | None:
    """`flash_attn_varlen_func` of an installed package; None if it is missing or cannot be imported."""
    if importlib.util.find_spec(package) is None:
        return None
    try:
        return getattr(importlib.import_module(package), "flash_attn_varlen_func", None)
    except (ImportError, OSError) as error:  # built for another torch
        say_once(
            "{package} is installed but cannot be loaded, so it is not used: {error}",
            package=package,
            error=error,
        )
        return None


def _flash_attention(call: Call, package: str) -> Tensor:
    """By FlashAttention 2 or 3: Dao 2023 (arXiv 2307.08691), Shah et al. 2024 (arXiv 2407.08608)."""
    function: Any = _flash_function(package)
    reach = -1 if call.window is None else call.window - 1
    out = function(
        *call.rows(), call.starts, call.starts, call.longest, call.longest,
        softmax_scale=call.scaling, causal=True,
        window_size=(reach, 0 if call.window is not None else -1), softcap=call.softcap or 0.0,
        **({"dropout_p": call.dropout} if call.dropout else {}),
    )  # fmt: skip
    return (out[0] if isinstance(out, tuple) else out)[None]  # some versions also return sums


def _fits_torch_varlen(call: Call) -> bool:
    is_plain = not call.dropout and call.softcap is None
    return is_plain and _suits_fused_kernels(call) and _has_torch_varlen()


@functools.cache
def _has_torch_varlen() -> bool:
    """torch 2.12 and later, which has a window, the scale and grouped heads."""
    try:
        import inspect

        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"window_size", "scale", "enable_gqa"} <= set(inspect.signature(varlen_attn).parameters)


def _torch_varlen(call: Call) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x.contiguous() for x in call.rows())
    out: Any = varlen_attn(
        q, k, v, call.starts, call.starts, call.longest, call.longest, scale=call.scaling,
        window_size=(-1 if call.window is None else call.window - 1, 0),
        enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip
    return out[None]


def _fits_flex(call: Call) -> bool:
    is_small = max(call.query.shape[-1], call.value.shape[-1]) <= 256
    return call.query.device.type == "cuda" and not call.dropout and is_small and flex.is_available()


def _flex(call: Call) -> Tensor:
    return flex.flex(
        call.query, call.key, call.value, call.boundaries, call.scaling, call.window, call.softcap,
        call.sinks, call.key_bias,
    )  # fmt: skip


def _fits_blocks(call: Call) -> bool:
    is_plain = call.window is None and call.softcap is None and call.sinks is None and not call.dropout
    return is_plain and call.query.device.type == "cpu"


def _blocks(call: Call) -> Tensor:
    call = call.with_bias_as_columns()
    scale = call.query.shape[-1] ** -0.5 if call.scaling is None else call.scaling
    return packed_causal(call.query, call.key, call.value, call.boundaries, scale)


def _by_run(call: Call) -> Tensor:
    call, outputs = call.with_bias_as_columns(), []
    for start, length, count in _equal_runs(call.boundaries):
        q, k, v = (_split_run(x, start, length, count) for x in (call.query, call.key, call.value))
        window = call.window if call.window is not None and call.window < length else None
        if window is not None or call.softcap is not None or call.sinks is not None:
            out = _by_query_block(q, k, v, dataclasses.replace(call, window=window))
        else:
            out = _by_torch(q, k, v, dropout_p=call.dropout, is_causal=True, scale=call.scaling)
        # [count, H, length, D] -> [1, count * length, H, D]
        outputs.append(out.transpose(1, 2).reshape(1, count * length, q.shape[1], -1))
    return torch.cat(outputs, dim=1)


def _by_torch(q: Tensor, k: Tensor, v: Tensor, **limits: Any) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(q, k, v, enable_gqa=grouped, **limits)


def _equal_runs(boundaries: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(start, length, count) for each run of neighbouring samples of one length."""
    start, i = boundaries[0], 1
    while i < len(boundaries):
        length, count = boundaries[i] - boundaries[i - 1], 1
        while i + count < len(boundaries) and boundaries[i + count] - boundaries[i + count - 1] == length:
            count += 1
        if length:
            yield start, length, count
        i += count
        start = boundaries[i - 1]


def _split_run(x: Tensor, start: int, length: int, count: int) -> Tensor:
    """`[1, H, T, D]` -> `[count, H, length, D]`, a view."""
    return x[0, :, start : start + length * count].unflatten(1, (count, length)).transpose(0, 1)


def _by_query_block(q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
    """Attention of samples `[count, H, length, D]` under the limits of `call`."""
    length, window, outputs = q.shape[2], call.window, []
    for begin in range(0, length, QUERY_BLOCK):
        end = min(begin + QUERY_BLOCK, length)
        first = 0 if window is None else max(0, begin - window + 1)
        rows = torch.arange(begin, end, device=q.device)[:, None]
        columns = torch.arange(first, end, device=q.device)[None, :]
        mask = columns <= rows
        if window is not None:
            mask &= columns > rows - window
        block = q[:, :, begin:end], k[:, :, first:end], v[:, :, first:end]
        if call.softcap is None and call.sinks is None:
            out = _by_torch(*block, attn_mask=mask, dropout_p=call.dropout, scale=call.scaling)
        else:
            out = scored(*block, mask, call.scaling, call.dropout, call.softcap, call.sinks).transpose(1, 2)
        outputs.append(out)
    return torch.cat(outputs, dim=2)


def scored(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    dropout: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """`[B, T, H, D]` from a tensor of all scores, for calls without a fused kernel; causal without a mask.

    `softcap`: scores are squeezed into (-softcap, softcap), as in Gemma 2. `sinks [H]`: another score of each
    query, which adds to the denominator of the softmax and has no value, as in gpt-oss.
    """
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is None and q.shape[2] > 1:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(
            k.shape[2] - q.shape[2]
        )
    if mask is not None:
        lowest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else scores + mask
    if sinks is not None:
        column = sinks.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, column], dim=-1)
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    weights = scores.softmax(-1, dtype=wide)[..., : k.shape[2]].to(q.dtype)
    return (apply_dropout(weights, dropout) @ v).transpose(1, 2).contiguous()


KERNELS = (
    Kernel(
        _fits_flash3, functools.partial(_flash_attention, package="flash_attn_interface"), "FlashAttention 3"
    ),
    Kernel(_fits_flash2, functools.partial(_flash_attention, package="flash_attn"), "FlashAttention 2"),
    Kernel(_fits_torch_varlen, _torch_varlen, "torch varlen"),
    Kernel(_fits_flex, _flex, "FlexAttention"),
    Kernel(_fits_blocks, _blocks, "blocks"),
    Kernel(lambda call: True, _by_run, "runs"),
)
