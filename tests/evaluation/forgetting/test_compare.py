"""A difference is called a loss from two standard errors on."""

from __future__ import annotations

import math

import numpy as np
import pytest

from xtuner.evaluation.forgetting.compare import BETTER, LOST, UNCLEAR, change_of, standard_error
from xtuner.evaluation.forgetting.items import Metric


def accuracy(count):
    return Metric("general/english_accuracy", [range(1)] * count, [1.0] * count, [0] * count)


def perplexity(weights):
    return Metric("general/english_perplexity", [range(1)] * len(weights), weights)


def test_the_standard_error_of_accuracy_is_that_of_paired_differences():
    differences = np.array([1.0, -1, 0, 0, 1, 0, 0, 0])
    expected = differences.std(ddof=1) / math.sqrt(8)
    assert standard_error(differences, np.ones(8)) == pytest.approx(expected)


def test_the_standard_error_of_a_ratio_is_that_of_many_draws():
    """Of texts of different lengths, whose differences are per token."""
    random = np.random.default_rng(0)
    tokens = random.integers(10, 60, 40).astype(float)
    differences = tokens * random.normal(0.1, 0.2, 40)
    draws = random.integers(0, 40, (20000, 40))
    drawn = differences[draws].sum(1) / tokens[draws].sum(1)
    assert standard_error(differences, tokens) == pytest.approx(drawn.std(), rel=0.05)


@pytest.mark.parametrize(
    ("after", "verdict"), [([0.0] * 8, LOST), ([1.0] * 7 + [0.0], UNCLEAR), ([1.0] * 8, UNCLEAR)]
)
def test_one_question_of_eight_is_noise(after, verdict):
    assert change_of(accuracy(8), [1.0] * 8, after, 1.0).verdict == verdict


def test_a_perplexity_that_falls_for_every_text_is_better():
    metric = perplexity([10.0, 20.0, 30.0])
    change = change_of(metric, [30.0, 60.0, 90.0], [20.0, 40.0, 60.0], math.exp(2))
    assert (change.before, change.after) == pytest.approx((math.exp(3), math.exp(2)))
    assert change.verdict == BETTER
    assert change_of(metric, [20.0, 40.0, 60.0], [math.nan] * 3, 1.0).verdict == LOST
