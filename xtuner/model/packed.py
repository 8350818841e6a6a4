"""A flat batch of samples, and the arguments of a model for it.

    batch         a a a b b _ _        [2, 7] with padding, from default_collate_fn; or flat already, from
                  c c c _ _ _ _        flat_collate_fn
    input_ids     a a a b b c c c      [8], on the device
    boundaries    0     3   5     8    where samples begin and end
    positions     the tokens that predict one with a loss, and `targets`, the predicted ones

All but the ids is on the host, so that a training step never waits for the device.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xtuner.devices import kind_of, pins_memory
from xtuner.next_tokens import next_tokens


@dataclass(frozen=True)
class Packed:
    """Samples one after the other: ids on the device, the rest on the host."""

    input_ids: Tensor
    boundaries: Sequence[int]
    positions: np.ndarray
    targets: np.ndarray
    reference: np.ndarray | None = None  # log-probability of each sample, computed before


def pack(data: dict[str, Any], device: torch.device) -> Packed:
    """The samples of a batch, without its padding."""
    boundaries = boundaries_of(data)
    ids = data["input_ids"]
    mask = data.get("attention_mask")
    flat = ids.flatten() if mask is None else ids[mask.bool()]
    positions, targets = loss_positions(data, boundaries)
    return Packed(flat.to(device), boundaries, positions, targets, data.get("reference_logprobs"))


def loss_positions(
    data: dict[str, Any], boundaries: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Positions with a loss in the flat batch, and their targets, as the collate function found them."""
    if "loss_positions" in data:
        return data["loss_positions"], data["loss_targets"]
    labels, mask = data.get("labels"), data.get("attention_mask")
    if labels is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    flat = labels.flatten() if mask is None else labels[mask.bool()]
    return next_tokens(flat.cpu().numpy(), boundaries_of(data) if boundaries is None else boundaries)


def last_tokens(data: dict[str, Any]) -> list[int]:
    """The last token of each sample of a batch."""
    packed = pack(data, data["input_ids"].device)
    return packed.input_ids[[end - 1 for end in packed.boundaries[1:]]].tolist()


def boundaries_of(data: dict[str, Any]) -> list[int]:
    """The boundaries of the samples of a batch after its padding is removed."""
    if "boundaries" in data:
        return data["boundaries"]
    rows, width = data["input_ids"].shape
    mask = data.get("attention_mask")
    lengths = [width] * rows if mask is None else mask.sum(1).tolist()
    boundaries = [0]
    for row, length in enumerate(lengths):
        inner = (
            data["cumulative_len"][row].tolist() if data.get("cumulative_len") is not None else [0, length]
        )
        assert (inner[0], inner[-1]) == (0, length), (
            f"sequence {row} has {length} tokens, but its boundaries are {inner}"
        )
        offset = boundaries[-1]
        boundaries += [offset + b for b in inner[1:]]
    return boundaries


def unpack(logits: Tensor, data: dict[str, Any]) -> Tensor:
    """`logits [N, V]` as `[B, T, V]`, zero at padding."""
    mask = data.get("attention_mask")
    shape = data["input_ids"].shape
    if mask is None:
        return logits.view(*shape, -1)
    rows = logits.new_zeros(*shape, logits.shape[-1])
    rows[mask.bool().to(logits.device)] = logits
    return rows


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """`array` as a tensor on `device`, without waiting for the device."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if pins_memory(device):
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=kind_of(device).copies_behind)


def packed_inputs(input_ids: Tensor, boundaries: Sequence[int]) -> dict[str, Any]:
    """Arguments of a model for one packed sequence `[1, N]` whose samples lie between `boundaries`."""
    lengths = [b - a for a, b in itertools.pairwise(boundaries)]
    device = input_ids.device
    cu_seq_lens = to_device(np.array(boundaries, np.int32), device)
    position_ids = to_device(np.concatenate([np.arange(n) for n in lengths]), device)[None]
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
