"""Boxes of RefCOCO: corners in hundredths of the image's width and height.

bbox [64, 48, 128, 96] in 640 x 480  ->  [10, 10, 30, 30]  <-  "{<10><10><30><30>}"
"""

from __future__ import annotations

import re
from collections.abc import Sequence

Box = Sequence[int]


def find_box(answer: str) -> list[int] | None:
    """The box in `answer`; None unless it has exactly four numbers and no corner is inverted."""
    numbers = [int(number) for number in re.findall(r"\d+", answer)]
    if len(numbers) != 4 or numbers[2] < numbers[0] or numbers[3] < numbers[1]:
        return None
    return numbers


def iou(first: Box, second: Box) -> float:
    """Intersection over union; a box includes both of its corners, as in the 0.1.x series."""
    width = min(first[2], second[2]) - max(first[0], second[0]) + 1
    height = min(first[3], second[3]) - max(first[1], second[1]) + 1
    common = max(0, width) * max(0, height)
    return common / (_area(first) + _area(second) - common)


def _area(box: Box) -> int:
    return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
