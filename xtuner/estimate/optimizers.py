"""The bytes that an optimizer keeps for trained tensors, by its name and settings.

    [4096, 4096] in fp32      AdamW       134.2 MB   two numbers for each weight
                              Muon         67.1 MB   one; two for what is no matrix of a layer
                              AdamW8bit    34.1 MB   two bytes, and two scales for 256 weights
                              Adafactor    32.8 kB   a number for each row and each column

Pages of a paged optimizer may lie in the host's memory where that of a GPU is short; they are counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from xtuner.estimate.shape import Tensors

# As bitsandbytes has them.
LEAST_IN_8_BITS, BLOCK = 4096, 256


class States(NamedTuple):
    """What an optimizer keeps: `numbers` for each weight, `matrices` for each of a layer's matrices.

    `bits`: 8 in 8 bits, 32 in fp32, 0 in the precision of the weight. `factored`: of tensors with more than
    one dimension a number for each row and each column.
    """

    numbers: int = 2
    matrices: int | None = None
    bits: int = 0
    factored: bool = False


ADAMW, ADAMW_8BIT = States(2), States(2, bits=8)
_OF = {
    "Adafactor": States(1, factored=True),
    "Adagrad": States(1),
    "AdEMAMix": States(3, bits=32),
    "Lion": States(1, bits=32),
    "Muon": States(2, matrices=1),
    "RMSprop": States(1),
    "SGD": States(0),
    "SGDScheduleFree": States(1),
}


def read_states(name: str, settings: Mapping[str, Any]) -> States:
    """The states of the optimizer class `name`; two numbers for each weight if it is not known."""
    plain = name.removeprefix("Paged").removesuffix("8bit").removesuffix("32bit")
    found = _OF.get(plain, ADAMW)
    if plain in ("SGD", "RMSprop") and settings.get("momentum"):
        found = found._replace(numbers=found.numbers + 1)
    if settings.get("amsgrad") or settings.get("centered"):
        found = found._replace(numbers=found.numbers + 1)
    if name.endswith("8bit"):
        return found._replace(bits=8)
    return found._replace(bits=32) if name != plain else found


def state_bytes(states: States, tensors: Iterable[Tensors], number: int) -> int:
    """The bytes of the states of `tensors`, whose weights are of `number` bytes."""
    return sum(x.copies * _of_tensor(states, x, number) for x in tensors)


def bytes_of_large(states: States, number: int) -> float:
    """The bytes of a weight's states in a large matrix."""
    one = Tensors((4096, 4096))
    return _of_tensor(states, one, number) / one.weights


def _of_tensor(states: States, x: Tensors, number: int) -> int:
    size = math.prod(x.shape)
    if states.factored and len(x.shape) > 1:
        return number * (size // x.shape[-1] + size // x.shape[-2])
    is_matrix = states.matrices is not None and len(x.shape) == 2 and not x.outside
    count = states.matrices if is_matrix and states.matrices is not None else states.numbers
    if states.bits == 8 and size >= LEAST_IN_8_BITS:
        return count * (size + 4 * -(-size // BLOCK))
    return count * size * (4 if states.bits else number)
