"""Curves as a picture."""

import math
import re

import pytest

from xtuner.svg_curves import COLOURS, MOST_POINTS, svg_curves, thinned


def labels(picture):
    return re.findall(r">([^<>]+)</text>", picture)


@pytest.mark.parametrize(
    ("points", "log", "texts"),
    [
        ([(0, 0.0), (97, 6.1)], False, ["0", "2", "4", "6", "0", "20", "40", "60", "80", "step"]),
        ([(1e-7, 1.0), (1.0, 2.0)], True, ["1", "1.2", "1.4", "1.6", "1.8", "2"]),
        ([(10, 4.5)], False, ["4.5", "10", "step"]),
        ([(2, -0.004), (4, -0.001)], False, ["-0.004", "-0.003", "-0.002", "-0.001"]),
    ],
)
def test_axes_have_round_numbers(points, log, texts):
    found = labels(svg_curves({"loss": points}, "step", log_x=log))
    assert found[: len(texts)] == texts
    if log:
        assert found[-9:] == ["1e-07", "1e-06", "1e-05", "0.0001", "0.001", "0.01", "0.1", "1", "step"]


def test_few_numbers_are_points_and_what_is_no_number_lacks():
    """A run with one measurement is seen; a NaN leaves a gap in the numbers, not in the picture."""
    picture = svg_curves({"a": [(1, 2.0), (2, math.nan), (3, 1.0)], "b": [(2, 1.5)]}, "step")
    assert picture.count('r="3"') == 3
    assert picture.count("<polyline") == 2
    assert labels(picture)[-2:] == ["a", "b"]
    assert svg_curves({"a": [(1, math.nan)]}, "step") == ""
    assert COLOURS[3] in svg_curves({"a": [(1, 2.0), (3, 1.0)]}, "step", marked=2)


def test_a_long_curve_keeps_its_spikes():
    points = [(i, 1000.0 if i == 54_321 else -5.0 if i == 7 else 1.0) for i in range(100_000)]
    short = thinned(points)
    assert len(short) <= MOST_POINTS
    assert {(54_321, 1000.0), (7, -5.0)} <= set(short)
    assert short == sorted(short)
    assert thinned(short) == short
