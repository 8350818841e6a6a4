"""One attention function for every family, and the rule that packed samples never see each other.

    tokens       a  a  a | b  b | c  c        one row of a flattened batch, [1, 7]
    cu_seq_lens  0         3      5      7    borders; position ids restart at each
    attention    each sample alone, causal: FlashAttention or torch's varlen kernel on a GPU,
                 else one causal call per run of equally long samples. No [T, T] mask exists.

Without `cu_seq_lens` (generation, padded batches) it is transformers' own sdpa with its masks.
transformers makes masks before any layer runs and hands each layer the one of its kind. Within
`packed_batch()` they are no tensors but a `PackedMask`, which says the same: the window or the chunk.
What a family asks for and this function does not do is refused, never left out.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout as apply_dropout
from torch.nn.functional import scaled_dot_product_attention

from xtuner.errors import ModelError
from xtuner.families import family_of
from xtuner.language import told
from xtuner.log import say_once
from xtuner.model.fused.linear import in_one_dtype
from xtuner.model.fused.segments import packed_causal
from xtuner.parallel.sequence import ulysses

NAME = "xtuner"
# Queries that are scored at one time where a window or a soft cap forbids the fused kernel.
QUERY_BLOCK = 1024

# Tensors that layers hand on and that change no score.
_HARMLESS = frozenset({"position_ids", "cache_position", "cu_seq_lens_k"})

Pieces = Sequence[tuple[int, int]]
_packed: ContextVar[Pieces | None] = ContextVar("packed", default=None)


@contextlib.contextmanager
def packed_batch(pieces: Pieces = ()) -> Iterator[None]:
    """Within it, forward passes carry `cu_seq_lens` and need no mask.

    `pieces`: of each sample in this process's part of the row how many tokens are here, and its length; left
    out where the whole row is here.
    """
    token = _packed.set(pieces)
    try:
        yield
    finally:
        _packed.reset(token)


def pieces() -> Pieces | None:
    """What `packed_batch` was told, None outside of it."""
    return _packed.get()


@dataclass(frozen=True)
class PackedMask:
    """In place of a packed row's mask: each token sees those of its sample up to itself, within limits."""

    window: int | None = None  # only so many, itself among them
    chunk: int | None = None  # only those of its own chunk, counted from the sample's first token
    length: int = field(default=0, compare=False)  # of the row

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """That of the mask in whose place it is: PaliGemma's decoder, given one, reads it for its own."""
        return (1, 1, self.length, self.length)

    @property
    def ndim(self) -> int:
        """4, as of every mask that is made already."""
        return len(self.shape)


def register_attention() -> None:
    """Make `attn_implementation="xtuner"` known to transformers; calling it again changes nothing."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, _mask)


def supports_attention(model_class: type, config: Any) -> bool:
    """Whether ours takes the place of the family's attention, for good or until a trial says no."""
    asks = bool(getattr(model_class, "_supports_attention_backend", False))
    return asks and family_of(config).packs is not False


def _mask(*args: Any, **kwargs: Any) -> Tensor | PackedMask | None:
    from transformers.masking_utils import sdpa_mask

    # What looks in both directions, an encoder of images, is not the packed row.
    if pieces() is None or kwargs.get("allow_is_bidirectional_skip"):
        if getattr(kwargs["config"], "use_bidirectional_attention", False):
            # The layers of such a family take no mask for leave to look ahead, whatever the mask was to be.
            kwargs["allow_is_causal_skip"] = False
        return sdpa_mask(*args, **kwargs)
    # A union is of causal with what images are: blocks that look both ways.
    if kwargs.get("use_vmap") or getattr(kwargs.get("mask_function"), "__name__", "") == "or_mask":
        raise ModelError(_cannot("a mask of its own"))
    limit, config = kwargs.get("local_size"), kwargs["config"]
    if limit is None or limit != getattr(config, "attention_chunk_size", None):
        return PackedMask(window=limit, length=kwargs["kv_length"])
    return PackedMask(chunk=limit, length=kwargs["kv_length"])


def _cannot(what: str) -> str:
    return told(
        "This model's attention asks for {what}: set attn_implementation = 'eager' in model.llm",
        what=told(what),
    )


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | PackedMask | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    sequence_group: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention output `[B, T, H, D]`; `query` is `[B, H, T, D]`, `key` and `value` may have fewer heads.

    `s_aux`: of each head a score that no token has, its sink. `sequence_group`: the processes that have the
    other parts of the row. Windows are read from the mask, as transformers' sdpa does.
    """
    # Under autocast rotary positions leave queries and keys in fp32 beside values in 16 bits.
    query, key, value = in_one_dtype(query, key, value)
    if cu_seq_lens_q is None:
        assert not isinstance(attention_mask, PackedMask), "the family drops cu_seq_lens_q"
        _check_asks(kwargs, allowed=("position_bias",))
        if softcap is not None or s_aux is not None:
            return _scored(query, key, value, attention_mask, scaling, dropout, softcap, s_aux), None
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    assert query.shape[0] == 1, "a packed batch is one row"
    _check_asks(kwargs)
    if kwargs.get("is_causal") is False:  # a module's own `is_causal` says nothing: its mask does
        raise ModelError(_cannot("tokens that come later"))
    if not isinstance(attention_mask, PackedMask):
        raise ModelError(_cannot("a mask of its own"))
    length = query.shape[2]
    if sequence_group is not None:
        query, key, value = ulysses.to_heads(query, key, value, sequence_group)
        s_aux = None if s_aux is None else ulysses.own_part(s_aux, 0, sequence_group)
    query = _temperature_by_sample(module, query, cu_seq_lens_q, length)
    out = _packed_attention(
        query, key, value, attention_mask, cu_seq_lens_q, max_length_q, scaling, dropout, softcap, s_aux
    )
    return out if sequence_group is None else ulysses.to_tokens(out, sequence_group), None


def _check_asks(kwargs: Mapping[str, Any], allowed: Sequence[str] = ()) -> None:
    """ModelError for a tensor that changes scores in a way that is not known here."""
    for name, value in kwargs.items():
        if isinstance(value, Tensor) and name not in _HARMLESS and name not in allowed:
            raise ModelError(_cannot(repr(name)))


def _temperature_by_sample(module: Any, query: Tensor, cu_seq_lens: Tensor, length: int) -> Tensor:
    """`query [1, H, T, D]` of Llama 4's layers without rope, scaled by its index in the sample.

    The layer has scaled it by its index in the row, of which `length` tokens are on one process.
    """
    row = query.shape[2]
    if not getattr(module, "attn_temperature_tuning", False) or module.use_rope or row < module.floor_scale:
        return query
    index = torch.arange(row, device=query.device)
    starts = cu_seq_lens[torch.bucketize(index, cu_seq_lens, right=True) - 1]
    wanted, found = (
        torch.log1p(torch.floor((i.float() + 1.0) / module.floor_scale)) * module.attn_scale + 1.0
        for i in (index - starts, index % length)
    )
    return (query * (wanted / found)[None, None, :, None]).to(query.dtype)


def _packed_attention(
    query, key, value, mask: PackedMask, cu_seq_lens, longest, scaling, dropout, softcap, sinks
) -> Tensor:
    borders = None
    if mask.chunk is not None and mask.chunk < longest:
        borders, longest = _cut(cu_seq_lens.tolist(), mask.chunk), mask.chunk
        cu_seq_lens = torch.tensor(borders, dtype=torch.int32, device=query.device)
    kernel = None if sinks is not None else _varlen_kernel(query, value, dropout, softcap)
    if kernel is not None:
        return kernel(query, key, value, cu_seq_lens, longest, scaling, dropout, mask.window, softcap)
    borders = borders or cu_seq_lens.tolist()
    return _by_segment(query, key, value, borders, scaling, dropout, mask.window, softcap, sinks)


def _cut(borders: list[int], chunk: int) -> list[int]:
    """`borders` with more of them inside each sample, `chunk` tokens apart."""
    starts = [i for a, b in itertools.pairwise(borders) for i in range(a, b, chunk)]
    return [*starts, borders[-1]]


def _by_segment(query, key, value, borders, scaling, dropout, window, softcap, sinks=None) -> Tensor:
    plain = window is None and softcap is None and sinks is None and not dropout
    if query.device.type == "cpu" and plain:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return packed_causal(query, key, value, borders, scale)
    outputs = []
    for start, length, count in _equal_runs(borders):
        q, k, v = (_split_run(x, start, length, count) for x in (query, key, value))
        window_acts = window is not None and window < length
        if window_acts or softcap is not None or sinks is not None:
            out = _by_query_block(q, k, v, scaling, dropout, window if window_acts else None, softcap, sinks)
        else:
            out = scaled_dot_product_attention(
                q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
            )
        # [count, H, length, D] -> [1, count * length, H, D]
        outputs.append(out.transpose(1, 2).reshape(1, count * length, q.shape[1], -1))
    return torch.cat(outputs, dim=1)


def _equal_runs(borders: list[int]) -> Iterator[tuple[int, int, int]]:
    """(start, length, count) for each run of neighbours of one length."""
    start, i = borders[0], 1
    while i < len(borders):
        length, count = borders[i] - borders[i - 1], 1
        while i + count < len(borders) and borders[i + count] - borders[i + count - 1] == length:
            count += 1
        if length:
            yield start, length, count
        i += count
        start = borders[i - 1]


def _split_run(x: Tensor, start: int, length: int, count: int) -> Tensor:
    """`[1, H, T, D]` -> `[count, H, length, D]`, a view."""
    return x[0, :, start : start + length * count].unflatten(1, (count, length)).transpose(0, 1)


def _by_query_block(q, k, v, scaling, dropout, window, softcap, sinks) -> Tensor:
    """Causal attention within a window, without ever holding a square mask."""
    length, outputs = q.shape[2], []
    for begin in range(0, length, QUERY_BLOCK):
        end = min(begin + QUERY_BLOCK, length)
        first = 0 if window is None else max(0, begin - window + 1)
        rows = torch.arange(begin, end, device=q.device)[:, None]
        columns = torch.arange(first, end, device=q.device)[None, :]
        mask = columns <= rows
        if window is not None:
            mask &= columns > rows - window
        block = q[:, :, begin:end], k[:, :, first:end], v[:, :, first:end]
        if softcap is None and sinks is None:
            out = scaled_dot_product_attention(
                *block, attn_mask=mask, dropout_p=dropout, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
            )
        else:
            out = _scored(*block, mask, scaling, dropout, softcap, sinks).transpose(1, 2)
        outputs.append(out)
    return torch.cat(outputs, dim=2)


def _scored(q, k, v, mask, scaling, dropout, softcap, sinks) -> Tensor:
    """`[B, T, H, D]` with all scores at hand, for what no fused kernel does.

    `softcap`: scores are squeezed into (-softcap, softcap), as Gemma 2 does. `sinks [H]`: one more score of
    each query, which takes its part of the softmax and brings nothing, as in gpt-oss.
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


def _varlen_kernel(query: Tensor, value: Tensor, dropout: float, softcap: float | None):
    """The fused kernel that can do this call, or None."""
    if query.device.type != "cuda" or query.dtype not in (torch.float16, torch.bfloat16):
        return None
    if query.shape[-1] != value.shape[-1] or query.shape[-1] > 256:
        return None
    # Hopper's own, which knows no dropout; version 2 elsewhere.
    hopper = torch.cuda.get_device_capability(query.device)[0] == 9
    if hopper and not dropout and (flash := _flash_function("flash_attn_interface")):
        return functools.partial(_flash_attn, flash)
    if flash := _flash_function("flash_attn"):
        return functools.partial(_flash_attn, flash)
    return _torch_varlen if _has_torch_varlen() and not dropout and softcap is None else None


@functools.cache
def _flash_function(package: str) -> Callable[..., Any] | None:
    """`flash_attn_varlen_func` of an installed package; None where it is not there or does not load."""
    if importlib.util.find_spec(package) is None:
        return None
    try:
        return getattr(importlib.import_module(package), "flash_attn_varlen_func", None)
    except (ImportError, OSError) as error:  # made for another torch
        say_once(
            "{package} is installed but cannot be loaded, so it is not used: {error}",
            package=package,
            error=error,
        )
        return None


@functools.cache
def _has_torch_varlen() -> bool:
    """torch 2.12 and later: the call takes a window, the scale and grouped heads."""
    try:
        import inspect

        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"window_size", "scale", "enable_gqa"} <= set(inspect.signature(varlen_attn).parameters)


def _flash_attn(flash, query, key, value, borders, longest, scaling, dropout, window, softcap) -> Tensor:
    """By FlashAttention 2 or 3: Dao 2023 (arXiv 2307.08691), Shah et al. 2024 (arXiv 2407.08608)."""
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    reach = -1 if window is None else window - 1
    out = flash(
        q, k, v, borders, borders, longest, longest, softmax_scale=scaling, causal=True,
        window_size=(reach, 0 if window is not None else -1), softcap=softcap or 0.0,
        **({"dropout_p": dropout} if dropout else {}),
    )  # fmt: skip
    return (out[0] if isinstance(out, tuple) else out)[None]  # with the sums of exponents, by some versions


def _torch_varlen(query, key, value, borders, longest, scaling, dropout, window, softcap) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
    out: Any = varlen_attn(
        q, k, v, borders, borders, longest, longest, scale=scaling,
        window_size=(-1 if window is None else window - 1, 0), enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip
    return out[None]


def packed_inputs(input_ids: Tensor, borders: list[int]) -> dict[str, Any]:
    """Model arguments of one flattened row `[1, N]` whose samples lie between `borders`."""
    lengths = [b - a for a, b in itertools.pairwise(borders)]
    device = input_ids.device
    cu_seq_lens = torch.tensor(borders, dtype=torch.int32, device=device)
    position_ids = torch.cat([torch.arange(n) for n in lengths])[None].to(device)
    longest = max(lengths)
    return {
        "input_ids": input_ids,
        "position_ids": position_ids,
        "attention_mask": None,
        "use_cache": False,
        "cu_seq_lens_q": cu_seq_lens,
        "cu_seq_lens_k": cu_seq_lens,
        "max_length_q": longest,
        "max_length_k": longest,
    }
