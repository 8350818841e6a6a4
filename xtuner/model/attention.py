"""One attention function for every family; packed samples never attend to each other.

    tokens       a  a  a | b  b | c  c        one packed sequence, [1, 7]
    cu_seq_lens  0         3      5      7    boundaries; position ids restart at each
    attention    each sample alone, causal, by a kernel of attention_kernels.py. No [T, T] mask exists.

Without `cu_seq_lens` (generation, padded batches) it is transformers' sdpa with its masks.
transformers makes masks before any layer runs and passes each layer the one of its kind. Within
`packed_batch()` they are not tensors but a `PackedMask`, which holds the window or the chunk.
A feature of a family that this function lacks is an error, never ignored.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xtuner.errors import ModelError
from xtuner.families import family_of
from xtuner.language import translate
from xtuner.model.attention_kernels import Call, packed_attention, scored
from xtuner.model.foreign import is_proven
from xtuner.model.fused.linear import in_one_dtype
from xtuner.model.packed import to_device
from xtuner.parallel.sequence import ulysses

NAME = "xtuner"
# Tensors that layers pass on and that change no score.
_HARMLESS = frozenset({"position_ids", "cache_position", "cu_seq_lens_k"})

# Mask functions of transformers/masking_utils.py that are supported here: alone, with a limit, combined.
_LIMITED = {"sliding_window_overlay", "chunked_overlay"}
_KINDS_OF_MASK = {"causal_mask_function", "packed_sequence_mask_function", *_LIMITED}
_JOINED = {"and_masks", "remap_positions_for_packed_sequence"}

Pieces = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class _Batch:
    boundaries: Sequence[int]
    pieces: Pieces


_packed: ContextVar[_Batch | None] = ContextVar("packed", default=None)


@contextlib.contextmanager
def packed_batch(boundaries: Sequence[int], pieces: Pieces = ()) -> Iterator[None]:
    """A context in which forward passes have `cu_seq_lens` and need no mask.

    `boundaries`: those of `cu_seq_lens`, on the host, so that no layer waits for the device to read them.
    `pieces`: for each sample in this process's part of the sequence, the number of its tokens here and its
    length; empty if the whole sequence is here.
    """
    token = _packed.set(_Batch(boundaries, pieces))
    try:
        yield
    finally:
        _packed.reset(token)


@contextlib.contextmanager
def no_pack() -> Iterator[None]:
    """A context in which forward passes are not those of a pack, as of an image encoder."""
    token = _packed.set(None)
    try:
        yield
    finally:
        _packed.reset(token)


def pieces() -> Pieces | None:
    """The pieces of `packed_batch`, or None outside of it."""
    batch = _packed.get()
    return None if batch is None else batch.pieces


def boundaries() -> Sequence[int] | None:
    """The boundaries of `packed_batch`, or None outside of it."""
    batch = _packed.get()
    return None if batch is None else batch.boundaries


@dataclass(frozen=True)
class PackedMask:
    """Replaces the mask of a pack: a token attends to the earlier ones of its sample, within limits."""

    boundaries: Sequence[int] = field(compare=False)  # on the host
    window: int | None = None  # only so many tokens, including itself
    chunk: int | None = None  # only tokens of its chunk, counted from the sample's first token
    length: int = field(default=0, compare=False)  # of the sequence

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of the replaced mask, which PaliGemma's decoder reads."""
        return (1, 1, self.length, self.length)

    @property
    def ndim(self) -> int:
        """4, as for any complete mask."""
        return len(self.shape)


def register_attention() -> None:
    """Register `attn_implementation="xtuner"` with transformers; a second call changes nothing."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, _mask)
    _find_samples_without_waiting()


def _find_samples_without_waiting() -> None:
    """Let transformers learn from the host which samples a pack has, where it would ask the device."""
    from transformers import masking_utils

    theirs = masking_utils.find_packed_sequence_indices
    if hasattr(theirs, "__wrapped__") or not is_proven(theirs, "each mask of a pack waits for the device"):
        return

    @functools.wraps(theirs)
    def ours(position_ids: Tensor) -> Tensor | None:
        batch = _packed.get()
        if batch is None or position_ids.shape[0] != 1:
            return theirs(position_ids)
        lengths = [count for count, _ in batch.pieces] or np.diff(batch.boundaries)
        samples = np.repeat(np.arange(len(lengths)), lengths)
        if len(samples) != position_ids.shape[1]:  # those of a picture
            return theirs(position_ids)
        return to_device(samples, position_ids.device)[None] if len(lengths) > 1 else None

    masking_utils.find_packed_sequence_indices = ours


def supports_attention(model_class: type, config: Any) -> bool:
    """Whether ours replaces the family's attention, always or until an isolation test fails."""
    asks = bool(getattr(model_class, "_supports_attention_backend", False))
    return asks and family_of(config).packs is not False


def _mask(*args: Any, **kwargs: Any) -> Tensor | PackedMask | None:
    from transformers.masking_utils import sdpa_mask

    # Bidirectional attention, as of an image encoder, is not that of the pack.
    if (batch := _packed.get()) is None or kwargs.get("allow_is_bidirectional_skip"):
        if getattr(kwargs["config"], "use_bidirectional_attention", False):
            # The layers of such a family attend to later tokens if they get no mask.
            kwargs["allow_is_causal_skip"] = False
        return sdpa_mask(*args, **kwargs)
    if (kinds := _kinds_of_mask(kwargs["mask_function"])) is None or kwargs.get("use_vmap"):
        raise ModelError(_cannot("a mask of its own"))
    limit, length = kwargs.get("local_size"), kwargs["kv_length"]
    if kinds & _LIMITED and limit is None:
        raise ModelError(_cannot("a window of unknown length"))
    if "chunked_overlay" in kinds:
        return PackedMask(batch.boundaries, chunk=limit, length=length)
    return PackedMask(batch.boundaries, window=limit, length=length)


def _kinds_of_mask(function: Any) -> set[str] | None:
    """The names of the mask functions that transformers combined to this one; None if one is unknown.

    A name is that of the function itself, or of the one that created it.
    """
    kind = getattr(function, "__qualname__", "").split(".")[0]
    if kind in _KINDS_OF_MASK:
        return {kind}
    if kind not in _JOINED:
        return None
    # The closure holds functions, single or in a tuple, and tensors of positions.
    inner = [cell.cell_contents for cell in function.__closure__]
    functions = [f for x in inner for f in (x if isinstance(x, tuple) else (x,)) if callable(f)]
    found = [_kinds_of_mask(f) for f in functions]
    return None if None in found else set().union(*(kinds for kinds in found if kinds is not None))


def _cannot(what: str) -> str:
    return translate(
        "This model's attention asks for {what}: set attn_implementation = 'eager' in model.llm",
        what=translate(what),
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
    key_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention output `[B, T, H, D]`; `query` is `[B, H, T, D]`, `key` and `value` may have fewer heads.

    `s_aux`: the sink of each head, a score that no token has. `sequence_group`: the processes that have the
    other parts of the sequence. `key_bias [H, N]`: added to the scores of each key. Windows are read from the
    mask, as in transformers' sdpa.
    """
    # Under autocast rotary positions leave queries and keys in fp32 beside values in 16 bits.
    query, key, value = in_one_dtype(query, key, value)
    if cu_seq_lens_q is None:
        assert not isinstance(attention_mask, PackedMask), "the family drops cu_seq_lens_q"
        assert key_bias is None, "only packs have a bias for each key"
        heads = query, key, value
        return _unpacked(module, heads, attention_mask, scaling, dropout, softcap, s_aux, **kwargs)
    assert query.shape[0] == 1, "a packed batch is one row"
    assert key_bias is None or sequence_group is None, "a bias is not divided among processes"
    _check_asks(kwargs)
    if kwargs.get("is_causal") is False:  # a module's attribute `is_causal` is ignored: its mask decides
        raise ModelError(_cannot("tokens that come later"))
    if not isinstance(attention_mask, PackedMask):
        raise ModelError(_cannot("a mask of its own"))
    length = query.shape[2]
    if sequence_group is not None:
        query, key, value = ulysses.to_heads(query, key, value, sequence_group)
        s_aux = None if s_aux is None else ulysses.own_part(s_aux, 0, sequence_group)
    query = _temperature_by_sample(module, query, cu_seq_lens_q, length)
    call = Call(
        query, key, value, cu_seq_lens_q, attention_mask.boundaries, max_length_q, scaling=scaling,
        dropout=dropout, window=attention_mask.window, softcap=softcap, sinks=s_aux, key_bias=key_bias,
    )  # fmt: skip
    out = packed_attention(call if attention_mask.chunk is None else call.in_chunks(attention_mask.chunk))
    return out if sequence_group is None else ulysses.to_tokens(out, sequence_group), None


def _unpacked(
    module: torch.nn.Module,
    heads: tuple[Tensor, Tensor, Tensor],
    mask: Tensor | None,
    scaling: float | None,
    dropout: float,
    softcap: float | None,
    sinks: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of a padded batch, or of new tokens beside a cache: transformers' sdpa where it has all."""
    _check_asks(kwargs, allowed=("position_bias",))
    if softcap is not None or sinks is not None:
        return scored(*heads, mask, scaling, dropout, softcap, sinks), None
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(module, *heads, mask, dropout=dropout, scaling=scaling, **kwargs)


def _check_asks(kwargs: Mapping[str, Any], allowed: Sequence[str] = ()) -> None:
    """Raise ModelError for a tensor that may change scores in an unknown way."""
    for name, value in kwargs.items():
        if isinstance(value, Tensor) and name not in _HARMLESS and name not in allowed:
            raise ModelError(_cannot(repr(name)))


def _temperature_by_sample(module: Any, query: Tensor, cu_seq_lens: Tensor, length: int) -> Tensor:
    """`query [1, H, T, D]` of Llama 4's layers without rope, scaled by its index in the sample.

    The layer has scaled it by its index in the sequence, of which `length` tokens are on one process.
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
