"""Advantages against their formulas."""

import statistics

import numpy as np
import pytest

from xtuner.rewards.advantages import EPSILON, advantages_of, differ

REWARDS = np.array([[1.0, 0.0, 0.0, 3.0], [0.1, 0.1, 0.1, 0.1], [2.0, 2.0, 2.5, 2.0]])


@pytest.mark.parametrize("scale", [True, False])
def test_the_mean_of_the_group_is_taken_away(scale):
    """And divided by its deviation; a group without a difference has exactly 0."""
    for row, found in zip(REWARDS.tolist(), advantages_of(REWARDS, scale).tolist(), strict=True):
        divisor = statistics.stdev(row) + EPSILON if scale else 1
        assert found == pytest.approx([(r - statistics.fmean(row)) / divisor for r in row], abs=1e-15)
    assert advantages_of(REWARDS, scale)[1].tolist() == [0, 0, 0, 0]


def test_the_mean_may_be_that_of_the_others():
    """As RLOO has it."""
    found = advantages_of(REWARDS, scale=False, leave_one_out=True)
    for row, own in zip(REWARDS.tolist(), found.tolist(), strict=True):
        others = [statistics.fmean(row[:n] + row[n + 1 :]) for n in range(4)]
        assert own == pytest.approx([r - mean for r, mean in zip(row, others, strict=True)], abs=1e-15)


def test_groups_without_a_difference_are_found():
    assert differ(REWARDS).tolist() == [True, False, True]
