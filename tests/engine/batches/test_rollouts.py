"""The pure parts of rollouts: how answers are divided, and their seeds."""

import numpy as np
import pytest

from xtuner.engine.batches.rollouts import Rollouts, divide, seed_of
from xtuner.errors import ConfigError


def test_answers_are_divided_by_their_tokens():
    """Each is in one batch, in order; batches differ by less than the longest."""
    lengths = [9, 1, 5, 5, 2, 7, 3]
    parts = divide(lengths, 3)
    assert sorted(np.concatenate(parts).tolist()) == list(range(7))
    assert [part.tolist() for part in parts] == [[0, 4], [1, 5, 6], [2, 3]]
    assert [part.tolist() for part in divide([4], 2)] == [[0], []]


def test_seeds_differ_for_each_answer_and_stay():
    """A function of their numbers; not of their sum or their digits one after the other."""
    found = {seed_of(a, b, c) for a in range(12) for b in range(12) for c in range(12)}
    assert len(found) == 12**3
    assert all(0 <= seed < 2**63 for seed in found)
    assert seed_of(3, 1, 4, 1) == seed_of(3, 1, 4, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 1}, "rollouts.count is 1, but must be at least 2"),
        ({"max_new_tokens": 0}, "rollouts.max_new_tokens is 0, but must be at least 1"),
        ({"iterations": 0}, "rollouts.iterations is 0, but must be at least 1"),
        ({"temperature": 0}, "rollouts.temperature is 0: answers to a prompt must differ"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        Rollouts("exact", **settings)
