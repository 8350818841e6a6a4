"""How many runs over one base fit into the memory together, from the estimate."""

from __future__ import annotations

from dataclasses import replace

from xtuner.estimate.configured import USABLE, choose_recompute
from xtuner.estimate.forecast import Forecast
from xtuner.estimate.memory import weight_bytes
from xtuner.estimate.processes import process_memory

# Where the host's memory holds what is recomputed, runs are not mixed; so mixed ones keep it on the device.
_MOST = "full"


def how_many(found: Forecast | None, count: int) -> int:
    """The most of `count` runs that fit, all layers recomputed; 1 if the memory of one is not known."""
    if found is None:
        return 1
    training = replace(found.training, recompute=_MOST)
    base = weight_bytes(found.shape, training)
    one = process_memory(found.shape, training, found.division).device.total
    free = USABLE * found.machine.free_bytes
    return min(count, max(1, int((free - base) // max(1, one - base))))


def recompute_of(found: Forecast | None, together: int) -> str:
    """The least recomputation of a mixed batch of so many runs that fits."""
    if found is None:
        return _MOST
    training = replace(found.training, tokens=found.training.tokens * together)
    way = choose_recompute(found.shape, training, found.machine.free_bytes, found.division)
    return _MOST if way == "offload" else way
