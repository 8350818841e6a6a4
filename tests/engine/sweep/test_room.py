"""How many variants fit into the memory together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from xtuner.check.checks import check_config
from xtuner.config import load_config
from xtuner.engine.sweep.room import how_many, recompute_of
from xtuner.estimate.configured import USABLE
from xtuner.estimate.memory import weight_bytes
from xtuner.estimate.processes import process_memory
from xtuner.recipes.sizes import known_sizes


@pytest.fixture
def estimated(here):
    """A function that makes the forecast of a variant on a machine with so many free bytes."""
    found = check_config(load_config("c.py"), known_sizes).forecast
    assert found is not None

    def make(free, tokens=512):
        training = replace(found.training, tokens=tokens, recompute="full")
        return replace(found, training=training, machine=replace(found.machine, free_bytes=int(free)))

    return make


def parts(found):
    """The bytes of the base, and of what a run has besides."""
    base = weight_bytes(found.shape, found.training)
    return base, process_memory(found.shape, found.training, found.division).device.total - base


def test_the_base_is_there_once_and_the_rest_for_each(estimated):
    base, own = parts(estimated(0))
    free = (base + 3.5 * own) / USABLE
    assert how_many([estimated(free)] * 8) == 3
    assert how_many([estimated(free)] * 2) == 2


def test_the_largest_variants_have_to_fit(estimated):
    """A first variant that is small does not speak for the others."""
    base, own = parts(estimated(0, tokens=64))
    _, large = parts(estimated(0, tokens=4096))
    assert large > own
    free = (base + 2.5 * large) / USABLE
    variants = [estimated(free, tokens=64), *[estimated(free, tokens=4096)] * 4]
    assert how_many(variants) == 2


def test_what_is_not_known_trains_alone(estimated):
    assert how_many([estimated(2**40), None]) == 1
    assert how_many([estimated(1)] * 3) == 1
    assert recompute_of([estimated(2**40), None], 2) == "full"


def test_layers_are_recomputed_where_the_batches_together_are_too_large(estimated):
    """Of a mixed batch, not of one run: what fits alone need not fit together."""
    base, own = parts(estimated(0))
    free = (base + 1.2 * own) / USABLE
    assert recompute_of([estimated(2**40)] * 8, 8) == "none"
    ways = [recompute_of([estimated(free, tokens=4096)] * 8, together) for together in (1, 8)]
    assert ways[1] == "full"
