"""The order of items: every item in every epoch, shared among the processes, a function of seed and epoch."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtuner.dataset.samplers import DefaultSampler, InfiniteSampler, LengthGroupedSampler
from xtuner.errors import ConfigError


class Items:
    def __init__(self, lengths):
        self.length = np.array(lengths)
        self.modality_length = self.length

    def __len__(self):
        return len(self.length)


def of_all_processes(make, world_size):
    """The sampler of each process."""
    samplers = []
    for rank in range(world_size):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RANK", str(rank))
            patch.setenv("WORLD_SIZE", str(world_size))
            samplers.append(make())
    return samplers


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 5), st.booleans(), st.booleans(), st.integers(0, 2))
def test_the_processes_together_read_every_item(count, world_size, shuffle, round_up, epoch):
    """No item is missed; with `round_up` all read equally many, without it none is read twice."""
    make = lambda: DefaultSampler(Items([1] * count), shuffle, seed=3, round_up=round_up)  # noqa: E731
    orders = []
    for sampler in of_all_processes(make, world_size):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert len(orders[-1]) == len(sampler)
    together = [item for order in orders for item in order]
    assert set(together) == set(range(count))
    if round_up:
        assert len(set(map(len, orders))) == 1
        assert len(together) - count < world_size
    else:
        assert len(together) == count


def test_the_order_is_that_of_one_process_dealt_out():
    """World size changes who reads an item, not when it is read."""
    make = lambda: DefaultSampler(Items([1] * 12), seed=1)  # noqa: E731
    (alone,) = of_all_processes(make, 1)
    shared = of_all_processes(make, 3)
    assert [i for group in zip(*shared, strict=True) for i in group] == list(alone)


def test_epochs_and_seeds_give_other_orders_and_asking_twice_the_same():
    """A resumed run reads the rest of `order()`."""
    sampler = DefaultSampler(Items([1] * 50), seed=1)
    first = list(sampler)
    assert first == list(sampler) == sampler.order().tolist()
    assert all(type(item) is int for item in first)
    sampler.set_epoch(1)
    assert first != list(sampler)
    assert first != list(DefaultSampler(Items([1] * 50), seed=2))
    assert list(DefaultSampler(Items([1] * 5), shuffle=False)) == [0, 1, 2, 3, 4]


def test_no_items_give_an_empty_order():
    """An empty data set is not this room's business."""
    assert list(DefaultSampler(Items([]))) == []


def test_the_endless_sampler_goes_through_one_epoch_after_the_other():
    """Each pass holds every item and has its own order."""
    seen = list(itertools.islice(InfiniteSampler(Items([1] * 30), seed=0), 60))
    assert sorted(seen[:30]) == sorted(seen[30:]) == list(range(30))
    assert seen[:30] != seen[30:]


def test_batches_hold_items_of_like_length_with_the_longest_first():
    """Sorted inside mega batches; all items are read."""
    lengths = np.random.default_rng(0).integers(1, 1000, 400)
    sampler = LengthGroupedSampler(Items(lengths), per_device_batch_size=4, seed=0)
    order = sampler.order()
    assert sorted(order.tolist()) == list(range(400))
    assert lengths[order[0]] == lengths.max()
    spread = np.ptp(lengths[order].reshape(-1, 4), axis=1).mean()
    by_chance = np.ptp(lengths.reshape(-1, 4), axis=1).mean()
    assert spread < by_chance / 10
    assert order.tolist() != LengthGroupedSampler(Items(lengths), 4, seed=1).order().tolist()


def test_items_with_and_without_images_are_in_separate_batches():
    """A negative length marks an item without a picture; only what is left over at the end may mix."""
    lengths = np.where(np.arange(64) % 3, 1, -1) * np.random.default_rng(0).integers(1, 99, 64)
    sampler = LengthGroupedSampler(Items(lengths), 4, length_property="modality_length", seed=0)
    order = sampler.order()
    assert sorted(order.tolist()) == list(range(64))
    whole = ((lengths > 0).sum() // 4 + (lengths < 0).sum() // 4) * 4
    signs = np.sign(lengths[order[:whole]]).reshape(-1, 4)
    assert (np.abs(signs.sum(axis=1)) == 4).all()


def test_an_unknown_length_property_is_refused():
    """The two that exist are named."""
    with pytest.raises(ConfigError, match="'length' or 'modality_length'"):
        LengthGroupedSampler(Items([1]), 1, length_property="size")
