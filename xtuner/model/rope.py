"""Rotary positions with a scale by the length of each sample in a pack.

    position ids       0 1 2 3 4 5 | 0 1 | 0 1 2        dynamic and longrope: the largest sets the scale
    here, one call     0 1 2 3 4 5
    a sample                         0 1
                                           0 1 2        the angles are joined again

A dynamic scale is set by the lengths on the host, where stock code waits for the device; samples within the
model's original length share a call.

No state is kept between calls: stock code keeps a dynamic scale until a sample is shorter than the model's
original length, so that earlier samples would change later ones.
"""

from __future__ import annotations

import inspect
import itertools
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from xtuner.model import attention
from xtuner.model.foreign import is_proven


def scale_by_sample(model: nn.Module) -> int:
    """Let rotary modules of `model` scale each sample separately; returns the number of such modules."""
    from transformers.modeling_rope_utils import dynamic_rope_update

    found = [m for m in model.modules() if any(map(_follows_length, _kinds(m).values()))]
    if found:
        cost = (
            "rotary positions that follow a sample's length may be wrong in packs: compare the loss without"
        )
        is_proven(dynamic_rope_update, cost)
    for module in found:
        # A bound method, so that a deep copy of the model is bound to the copy.
        module.forward = MethodType(_forward, module)
    return len(found)


def _kinds(module: Any) -> dict[str, str]:
    """Prefix of a module's attributes (of a kind of layer, or empty) -> its type of scaling."""
    kind = getattr(module, "rope_type", None)
    if isinstance(kind, dict):
        return {f"{layers}_": one for layers, one in kind.items()}
    return {"": kind} if isinstance(kind, str) else {}


def _follows_length(kind: str) -> bool:
    return "dynamic" in kind or kind == "longrope"


def _forward(self: Any, x: Tensor, position_ids: Tensor, layer_type: str | None = None) -> Any:
    more = {} if layer_type is None else {"layer_type": layer_type}

    def angles(positions: Tensor) -> Any:
        _forget(self)
        return type(self).forward(self, x, positions, **more)

    # A batch of several rows is not a pack: zeros are padding.
    if position_ids.dim() != 2 or len(position_ids) != 1:
        return angles(position_ids)
    lengths = _lengths()
    if lengths and "dynamic" in _kinds(self)["" if layer_type is None else f"{layer_type}_"]:
        return _by_lengths(self, x, position_ids, lengths, layer_type)
    parts = [angles(positions) for positions in _samples(position_ids)]
    if pieces := attention.pieces():
        # They include the last position of each sample, which may be on another process.
        parts = [_first(part, count) for part, (count, _) in zip(parts, pieces, strict=True)]
    return _joined(parts)


def _lengths() -> list[tuple[int, int]]:
    """Of each sample of a pack the number of its positions here, and its length; empty outside of one."""
    boundaries = attention.boundaries()
    if not boundaries:
        return []
    return list(attention.pieces() or ((b - a, b - a) for a, b in itertools.pairwise(boundaries)))


def _by_lengths(
    self: Any, x: Tensor, position_ids: Tensor, lengths: list[tuple[int, int]], layer_type: str | None
) -> Any:
    """The angles of a pack by a dynamic scale, without a look at positions on the device."""
    more = {} if layer_type is None else {"layer_type": layer_type}
    # Without the decorators that follow the length and switch gradients off.
    plain = inspect.unwrap(type(self).forward)

    def angles(positions: Tensor, length: int) -> Any:
        _forget(self)
        if length > self.original_max_seq_len:
            _stretch(self, length, x.device, layer_type)
        with torch.no_grad():
            return plain(self, x, positions, **more)

    longest = max(length for _, length in lengths)
    if longest <= self.original_max_seq_len:
        return angles(position_ids, longest)
    parts = position_ids.split([count for count, _ in lengths], dim=1)
    return _joined([angles(part, length) for part, (_, length) in zip(parts, lengths, strict=True)])


def _stretch(module: Any, length: int, device: torch.device, layer_type: str | None) -> None:
    """Set the frequencies for a sample of `length`, as transformers' dynamic_frequency_update does."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    kind = module.rope_type if layer_type is None else module.rope_type[layer_type]
    more = {} if layer_type is None else {"layer_type": layer_type}
    # A tensor, as there: its products are rounded to 32 bits.
    inv_freq, module.attention_scaling = ROPE_INIT_FUNCTIONS[kind](
        module.config, device, seq_len=torch.tensor(length), **more
    )
    name = "inv_freq" if layer_type is None else f"{layer_type}_inv_freq"
    module.register_buffer(name, inv_freq, persistent=False)


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], Tensor):
        return torch.cat(parts, dim=1)
    return tuple(torch.cat(one, dim=1) for one in zip(*parts, strict=True))


def _samples(position_ids: Tensor) -> list[Tensor]:
    """The positions of each sample of a pack; of a cut sample, those on this process and its last."""
    if pieces := attention.pieces():
        parts = position_ids.split([count for count, _ in pieces], dim=1)
        lasts = [position_ids.new_full((1, 1), length - 1) for _, length in pieces]
        return [torch.cat(both, dim=1) for both in zip(parts, lasts, strict=True)]
    boundaries = attention.boundaries() or [0, position_ids.shape[1]]
    return list(position_ids.tensor_split(boundaries[1:-1], dim=1))


def _first(part: Any, count: int) -> Any:
    return part[:, :count] if isinstance(part, Tensor) else tuple(t[:, :count] for t in part)


def _forget(module: Any) -> None:
    """Reset the state of the last call."""
    for prefix, kind in _kinds(module).items():
        if "dynamic" in kind:
            original = getattr(module, f"{prefix}original_inv_freq")
            setattr(module, f"{prefix}inv_freq", original.clone())
            setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
        elif prefix:  # transformers before 5.21 cannot read it again
            vars(module).pop(f"{prefix}long_inv_freq", None)
