"""A KV cache with spare room, in which each new token is written in place.

    DynamicLayer of transformers   [k1 k2 k3] + k4  ->  [k1 k2 k3 k4]        all copied for each token
    GrowingLayer                   [k1 k2 k3 __ __] ->  [k1 k2 k3 k4 __]     copied when the room is used up

A cache has one owner: appending after a crop overwrites the cropped tokens. `forked` gives further owners
one each, which reads the same tensors and never writes into them.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from xtuner.blocks import CACHE_ROOM as ROOM


class GrowingLayer(DynamicLayer):
    """A DynamicLayer with the keys and values of `layer` and room for more."""

    keys: Any
    values: Any

    def __init__(self, layer: Any, owns: bool = True) -> None:
        """`owns`: tokens that a crop has removed may be overwritten in the tensors of `layer`."""
        super().__init__()
        super().lazy_initialization(layer.keys, layer.values)
        self.keys, self.values = layer.keys, layer.values
        room = slice(None if owns else 0)
        self._key_room, self._value_room = layer.keys[..., room, :], layer.values[..., room, :]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Start again after a reset."""
        super().lazy_initialization(key_states, value_states)
        self.keys, self.values = key_states[..., :0, :], value_states[..., :0, :]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """All keys and values, with the new ones at the end."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._key_room = _with_room(self._key_room, self.keys, key_states)
        self._value_room = _with_room(self._value_room, self.values, value_states)
        end = self.keys.shape[-2] + key_states.shape[-2]
        self.keys, self.values = self._key_room[..., :end, :], self._value_room[..., :end, :]
        return self.keys, self.values


_PLAIN = (DynamicLayer, GrowingLayer)


def _with_room(room: Tensor, held: Tensor, new: Tensor) -> Tensor:
    """A tensor that begins with `held` and `new`: `room` if it begins with `held` and is long enough."""
    start, end = held.shape[-2], held.shape[-2] + new.shape[-2]
    is_beginning = held.data_ptr() == room.data_ptr() and held.stride() == room.stride()
    if not is_beginning or held.shape[:-2] != room.shape[:-2] or room.shape[-2] < end:
        room = held.new_empty(*held.shape[:-2], end + ROOM, held.shape[-1])
        room[..., :start, :] = held
    room[..., start:end, :] = new
    return room


def let_grow(cache: Any) -> None:
    """Give the plain layers of `cache` room, and let windows hold no more than they need of a long prompt."""
    layers = getattr(cache, "layers", None) or []
    for number, layer in enumerate(layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            layers[number] = GrowingLayer(layer)
        elif type(layer) is DynamicSlidingWindowLayer and layer.is_initialized:
            layer.keys, layer.values = _compact(layer.keys), _compact(layer.values)


def _compact(states: Any) -> Any:
    """`states`, copied if it keeps twice as much memory alive."""
    return states.clone() if states.untyped_storage().nbytes() > 2 * states.nbytes else states


def filled(cache: Any) -> list[Any]:
    """The layers of `cache` that hold keys; others read those of a layer below."""
    return [layer for layer in cache.layers if layer.is_initialized]


def is_plain(cache: Any) -> bool:
    """Whether every layer of `cache` is plain keys and values: rows can be padded, joined and removed."""
    layers = getattr(cache, "layers", None) or []
    return bool(layers) and all(type(layer) in _PLAIN for layer in layers)


def can_repeat(cache: Any) -> bool:
    """Whether several rows can go on from copies of `cache`: keys and values, in windows or not."""
    layers = getattr(cache, "layers", None) or []
    return bool(layers) and all(type(layer) in (*_PLAIN, DynamicSlidingWindowLayer) for layer in layers)


def forked(cache: Any, is_last: bool = False) -> Any:
    """A cache with the tokens of `cache`, which is left as it is; `is_last`: nobody else needs `cache`.

    Keys and values are not copied before the next token. States are written in place, so they are copied.
    """
    from transformers import DynamicCache

    if type(cache) is DynamicCache and can_repeat(cache):
        found = copy.copy(cache)
        found.layers = [_forked_layer(layer) for layer in cache.layers]
        return found
    return cache if is_last else copy.deepcopy(cache)


def _forked_layer(layer: Any) -> Any:
    # Windows move by making new tensors.
    is_plain = type(layer) in _PLAIN and layer.is_initialized
    return GrowingLayer(layer, owns=False) if is_plain else copy.copy(layer)


def crop(cache: Any, surplus: int) -> bool:
    """Remove the last `surplus` tokens of `cache`; returns False, with `cache` unchanged, if it cannot."""
    if surplus == 0:
        return True
    layers = getattr(cache, "layers", None)
    # A state is a sum over all tokens, from which none can be removed.
    if not layers or any(type(layer) not in (*_PLAIN, DynamicSlidingWindowLayer) for layer in layers):
        return False
    windows = [layer for layer in layers if type(layer) is DynamicSlidingWindowLayer]
    # A window that has moved has lost the tokens that a crop would bring back into it.
    if any(layer.get_seq_length() >= layer.sliding_window for layer in windows):
        return False
    cache.crop(-surplus)
    return True
