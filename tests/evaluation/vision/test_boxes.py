"""Boxes by hand."""

import pytest

from xtuner.dataset.refcoco_json import to_hundredths
from xtuner.evaluation.vision.boxes import find_box, iou


def test_corners_in_hundredths():
    """64 of 640 is 10; 479 of 480 is 99.8, cut to 99."""
    assert to_hundredths([64, 48, 128, 431], 640, 480) == [10, 10, 30, 99]


@pytest.mark.parametrize(
    ("answer", "box"),
    [
        ("{<10><20><30><40>}", [10, 20, 30, 40]),
        ("[10, 20, 30, 40]", [10, 20, 30, 40]),
        ("{<10><20><30>}", None),
        ("{<10><20><30><40>} and {<1><2><3><4>}", None),
        ("{<30><20><10><40>}", None),
        ("{<10><40><30><20>}", None),
        ("I see no man", None),
    ],
)
def test_the_box_of_an_answer(answer, box):
    """Exactly four numbers, and no corner inverted."""
    assert find_box(answer) == box


def test_intersection_over_union():
    """[0, 0, 9, 9] and [5, 0, 14, 9] are 10 x 10 each and share 5 x 10: 50 of 150."""
    assert iou([0, 0, 9, 9], [5, 0, 14, 9]) == pytest.approx(1 / 3)
    assert iou([3, 4, 3, 4], [3, 4, 3, 4]) == 1.0
    assert iou([0, 0, 4, 4], [5, 5, 9, 9]) == 0.0
