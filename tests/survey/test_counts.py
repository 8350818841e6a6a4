"""How lengths are summed up."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from xtuner.survey.counts import NUM_BINS, Bin, describe_lengths


def test_the_smallest_histogram():
    assert describe_lengths(np.array([7])).bins == [Bin(7, 7, 1)]


def test_equal_bins_of_a_round_width():
    lengths = describe_lengths(np.array([10, 11, 12, 49]))
    assert lengths.bins[0] == Bin(10, 11, 2)
    assert lengths.bins[1] == Bin(12, 13, 1)
    assert lengths.bins[-1] == Bin(48, 49, 1)
    assert (lengths.min, lengths.median, lengths.mean, lengths.max) == (10, 11.5, 20.5, 49)


def test_a_few_very_long_ones_do_not_flatten_the_rest():
    """The last bin reaches to the longest."""
    lengths = describe_lengths(np.array([*range(100, 200)] * 10 + [50_000]))
    assert lengths.bins[0] == Bin(100, 104, 50)
    assert lengths.bins[-1].high == 50_000


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_every_sample_is_in_one_bin(values):
    bins = describe_lengths(np.array(values)).bins
    assert [sum(b.low <= v <= b.high for v in values) for b in bins] == [b.count for b in bins]
    assert sum(b.count for b in bins) == len(values)
    assert len(bins) <= NUM_BINS + 1
    assert all(a.high + 1 == b.low for a, b in itertools.pairwise(bins))
