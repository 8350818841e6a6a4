"""Pack plans: every sample once, no row too long, the same plan for the same lengths and seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtuner.dataset.items.packing import (
    PackPlan,
    plan_by_group,
    plan_chosen,
    plan_in_order,
    plan_packs,
    plan_single,
    plan_units,
)

FEW = settings(max_examples=50, deadline=None)
LENGTHS = st.lists(st.integers(0, 20), max_size=60).map(lambda values: np.array(values, np.int64))


def as_lists(plan):
    return [plan[row].tolist() for row in range(len(plan))]


def test_samples_that_fit_are_packed_together():
    """The plan of the module's picture."""
    rows = as_lists(plan_packs(np.array([3, 2, 4]), 5))
    assert sorted(map(sorted, rows)) == [[0, 1], [2]]
    assert as_lists(plan_in_order(np.array([3, 2, 4]), 5)) == [[0, 1], [2]]
    assert as_lists(plan_single(2)) == [[0], [1]]
    assert as_lists(plan_by_group(np.array([4, 4, 7]))) == [[0, 1], [2]]


@FEW
@given(LENGTHS, st.integers(20, 50), st.integers(0, 3))
def test_a_plan_holds_each_sample_once_and_no_row_is_too_long(lengths, max_length, seed):
    """Nothing is lost, doubled or cut, with or without shuffling."""
    for plan in (plan_packs(lengths, max_length, seed), plan_in_order(lengths, max_length)):
        assert sorted(plan.order.tolist()) == list(range(len(lengths)))
        assert plan.lengths(lengths).sum() == lengths.sum()
        assert (plan.lengths(lengths) <= max_length).all()
        assert (np.diff(plan.boundaries) > 0).all(), "an empty row"


@FEW
@given(LENGTHS, st.integers(20, 50))
def test_the_plan_is_as_good_as_best_fit_decreasing_sample_by_sample(lengths, max_length):
    """Handling equal lengths together gives as many rows as placing one sample after the other."""
    space = []
    for length in sorted(lengths[lengths > 0].tolist(), reverse=True):
        fitting = [left for left in space if left >= length]
        if fitting:
            space.remove(min(fitting))
        space.append((min(fitting) if fitting else max_length) - length)
    rows_of_nothing = 1 if (lengths == 0).any() else 0
    assert len(plan_packs(lengths, max_length)) == len(space) + rows_of_nothing


@FEW
@given(LENGTHS, st.integers(20, 50))
def test_in_order_opens_a_row_only_when_the_next_sample_does_not_fit(lengths, max_length):
    """Next fit: order kept, and the first sample of a row never fitted into the row before."""
    plan = plan_in_order(lengths, max_length)
    assert plan.order.tolist() == list(range(len(lengths)))
    for row in range(1, len(plan)):
        assert lengths[plan[row - 1]].sum() + lengths[plan[row][0]] > max_length


def test_the_seed_decides_which_samples_are_packed_together_and_nothing_else():
    """Same lengths and seed, same plan; another seed, other neighbours but as many rows."""
    lengths = np.random.default_rng(0).integers(1, 100, 500)
    one, again, other = (plan_packs(lengths, 128, seed) for seed in (1, 1, 2))
    assert as_lists(one) == as_lists(again) != as_lists(other)
    assert len(one) == len(other)


def test_rows_are_full_for_lengths_like_those_of_instruction_data():
    """At least 99.5 % of 2048 on log-normal lengths, for 20,000 samples."""
    lengths = np.clip(np.random.default_rng(0).lognormal(4.6, 0.9, 20_000).astype(int), 1, 2048)
    plan = plan_packs(lengths, 2048)
    assert lengths.sum() / (len(plan) * 2048) > 0.995


def test_a_sample_that_was_not_cut_is_our_own_mistake():
    """Lengths above max_length must not come here."""
    with pytest.raises(AssertionError, match="not cut"):
        plan_packs(np.array([6]), 5)


def test_units_are_packed_with_all_their_samples():
    """Pairs (4 1), (0 2) and (3 5): the first and the last fit into one row."""
    units = PackPlan(np.array([4, 1, 0, 2, 3, 5]), np.array([0, 2, 4, 6]))
    plan = PackPlan(np.array([1, 2, 0]), np.array([0, 1, 3]))
    assert as_lists(plan_units(units, plan)) == [[0, 2], [3, 5, 4, 1]]
    assert as_lists(plan_units(units, plan_chosen(np.array([2, 0])))) == [[3, 5], [4, 1]]
