"""How many runs over one base fit into the memory together, from the estimates of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from xtuner.estimate.configured import USABLE, choose_recompute
from xtuner.estimate.forecast import Forecast
from xtuner.estimate.memory import weight_bytes
from xtuner.estimate.processes import process_memory

# Where the host's memory holds what is recomputed, runs are not mixed; so mixed ones keep it on the device.
_MOST = "full"


def how_many(found: Sequence[Forecast | None]) -> int:
    """The most runs that fit, all layers recomputed; 1 if the memory of one is not known.

    Which of them train together is not known before, so the largest ones have to fit.
    """
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        return 1
    base = weight_bytes(known[0].shape, replace(known[0].training, recompute=_MOST))
    room = USABLE * known[0].machine.free_bytes - base
    count = 0
    for own in sorted((_total(one) - base for one in known), reverse=True):
        room -= own
        count += room >= 0
    return max(1, count)


def recompute_of(found: Sequence[Forecast | None], together: int) -> str:
    """The least recomputation of a mixed batch of so many runs that fits, of the largest ones."""
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        return _MOST
    largest = max(known, key=_total)
    tokens = sum(sorted((one.training.tokens for one in known), reverse=True)[:together])
    training = replace(largest.training, tokens=tokens)
    way = choose_recompute(largest.shape, training, largest.machine.free_bytes, largest.division)
    return _MOST if way == "offload" else way


def _total(found: Forecast) -> int:
    """The bytes of a run alone, all layers recomputed."""
    training = replace(found.training, recompute=_MOST)
    return process_memory(found.shape, training, found.division).device.total
