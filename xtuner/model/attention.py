"""One attention function for every family, and the rule that packed samples never see each other.

    tokens       a  a  a | b  b | c  c        one row of a flattened batch, [1, 7]
    cu_seq_lens  0         3      5      7    borders; position ids restart at each
    attention    each sample alone, causal: FlashAttention or torch's varlen kernel on a GPU,
                 else one causal call per run of equally long samples. No [T, T] mask exists.

Without `cu_seq_lens` (generation, padded batches) it is transformers' own sdpa with its masks.
transformers makes the mask before any layer runs and cannot see `cu_seq_lens` there, so
`packed_batch()` tells the mask function that none is needed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import itertools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import dropout as apply_dropout
from torch.nn.functional import scaled_dot_product_attention

from xtuner.errors import ModelError
from xtuner.families import family_of
from xtuner.log import logger, say_once
from xtuner.model.fused.linear import in_one_dtype
from xtuner.model.fused.segments import packed_causal
from xtuner.parallel.sequence import ulysses

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "xtuner"
# Queries that are scored at one time where a window or a soft cap forbids the fused kernel.
QUERY_BLOCK = 1024

_packed: ContextVar[bool] = ContextVar("packed", default=False)


@contextlib.contextmanager
def packed_batch() -> Iterator[None]:
    """Within it, forward passes carry `cu_seq_lens` and need no mask."""
    token = _packed.set(True)
    try:
        yield
    finally:
        _packed.reset(token)


def register_attention() -> None:
    """Make `attn_implementation="xtuner"` known to transformers; calling it again changes nothing."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, _mask)


def supports_attention(model_class: type, config: Any) -> bool:
    """Whether the family asks transformers' attention interface for what ours can do."""
    asks = bool(getattr(model_class, "_supports_attention_backend", False))
    return asks and not family_of(config).sinks


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    from transformers.masking_utils import sdpa_mask

    return None if _packed.get() else sdpa_mask(*args, **kwargs)


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    sequence_group: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention output `[B, T, H, D]`; `query` is `[B, H, T, D]`, `key` and `value` may have fewer heads.

    `sequence_group`: the processes that have the other parts of the row.
    """
    # Under autocast rotary positions leave queries and keys in fp32 beside values in 16 bits.
    query, key, value = in_one_dtype(query, key, value)
    if sequence_group is not None:
        query, key, value = ulysses.to_heads(query, key, value, sequence_group)
        output, _ = attention(
            module, query, key, value, attention_mask, scaling, dropout, sliding_window, softcap,
            cu_seq_lens_q, max_length_q, **kwargs,
        )  # fmt: skip
        return ulysses.to_tokens(output, sequence_group), None
    if kwargs.get("s_aux") is not None:
        raise ModelError("This model has attention sinks: set attn_implementation = 'eager' in model.llm")
    if cu_seq_lens_q is None:
        if softcap is not None:
            return _soft_capped(query, key, value, attention_mask, scaling, dropout, softcap), None
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    assert query.shape[0] == 1, "a packed batch is one row"
    assert kwargs.get("position_bias") is None, "a position bias has no packed form here"
    kernel = _varlen_kernel(query, value, dropout, softcap)
    if kernel is not None:
        return kernel(
            query, key, value, cu_seq_lens_q, max_length_q, scaling, dropout, sliding_window, softcap
        ), None
    borders = cu_seq_lens_q.tolist()
    return _by_segment(query, key, value, borders, scaling, dropout, sliding_window, softcap), None


def _by_segment(query, key, value, borders, scaling, dropout, window, softcap) -> Tensor:
    plain = window is None and softcap is None and not dropout
    if query.device.type == "cpu" and plain:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return packed_causal(query, key, value, borders, scale)
    outputs = []
    for start, length, count in _equal_runs(borders):
        q, k, v = (_split_run(x, start, length, count) for x in (query, key, value))
        window_acts = window is not None and window < length
        if window_acts or softcap is not None:
            out = _by_query_block(q, k, v, scaling, dropout, window if window_acts else None, softcap)
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


def _by_query_block(q, k, v, scaling, dropout, window, softcap) -> Tensor:
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
        if softcap is None:
            out = scaled_dot_product_attention(
                *block, attn_mask=mask, dropout_p=dropout, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
            )
        else:
            out = _soft_capped(*block, mask, scaling, dropout, softcap).transpose(1, 2)
        outputs.append(out)
    return torch.cat(outputs, dim=2)


def _soft_capped(q, k, v, mask, scaling, dropout, softcap) -> Tensor:
    """`[B, T, H, D]`; scores are squeezed into (-softcap, softcap) before the softmax, as Gemma 2 does."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap)
    if mask is None and q.shape[2] > 1:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(
            k.shape[2] - q.shape[2]
        )
    if mask is not None:
        lowest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else scores + mask
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    weights = scores.softmax(-1, dtype=wide).to(q.dtype)
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
        say_once(f"{package} is installed and does not load, so it is not used: {error}")
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


def isolates(model: PreTrainedModel) -> bool:
    """Whether packed samples of this model are known not to see each other."""
    return family_of(model.config).packs is True and model.config._attn_implementation == NAME


def check_isolation(model: PreTrainedModel) -> None:
    """Raise ModelError where packed samples of this model would see each other.

    Some families are proven to keep them apart; any other is tried once with two samples of four tokens.
    """
    if isolates(model):
        return
    if family_of(model.config).packs is False or _leaks(model):
        family = model.config.get_text_config().model_type
        raise ModelError(
            f"Models of the family '{family}' mix the samples of a batch, so several cannot share one: "
            "set pack_to_max_length = False and batch_size = 1 (and raise accumulative_counts instead)"
        )


@torch.no_grad()
def _leaks(model: PreTrainedModel) -> bool:
    """Whether the second of two packed samples differs from the same sample alone, by stock attention."""
    ids = torch.arange(8, device=model.device)[None] % model.config.get_text_config().vocab_size
    was_training, implementation = model.training, model.config._attn_implementation
    model.eval()
    try:
        with packed_batch():
            together = model(**packed_inputs(ids, [0, 4, 8])).logits[0, 4:]
        if implementation == NAME:
            _base(model).set_attn_implementation("eager")
        alone = model(input_ids=ids[:, 4:], use_cache=False).logits[0]
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, RuntimeError, AssertionError) as error:
        logger.warning(f"A packed batch failed: {type(error).__name__}: {error}")
        return True
    finally:
        if model.config._attn_implementation != implementation:
            _base(model).set_attn_implementation(implementation)
        model.train(was_training)
    difference = (together - alone).float().norm() / alone.float().norm()
    return not difference < (1e-3 if together.dtype in (torch.float32, torch.float64) else 5e-2)


def _base(model: Any) -> PreTrainedModel:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


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
