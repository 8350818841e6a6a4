"""Curves as an SVG picture: several over each other, with axes, readable on light and dark pages.

{"loss": [(10, 7.1), (20, 5.0)], "val": [(20, 5.3)]}  ->  <svg ...>: lines, a point for each number where
                                                          they are few, the names where they are several
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

Point = tuple[float, float]

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 320, 64, 40, 14, 16
COLOURS = ("#3b82c4", "#d9822b", "#2a9d5c", "#c94c4c", "#8a63c9", "#8c6d46", "#d16ba5", "#6b7785")
NUM_TICKS = 5
MOST_DOTS = 30
MOST_POINTS = 1000  # of a curve; a picture shows no more
MOST_NAMES = 4  # fit above the picture
NAME_HEIGHT = 20


def colour(number: int) -> str:
    """The colour of a curve."""
    return COLOURS[number % len(COLOURS)]


def svg_curves(
    curves: Mapping[str, Sequence[Point]], x_label: str, log_x: bool = False, marked: float | None = None
) -> str:
    """The picture of `curves`; `marked`: a value of x with a vertical line."""
    drawn = {name: thinned(_finite(points, log_x)) for name, points in curves.items()}
    every = list(itertools.chain.from_iterable(drawn.values()))
    if not every:
        return ""
    x_of = _Axis([x for x, _ in every], LEFT, WIDTH - RIGHT, log_x)
    y_of = _Axis([y for _, y in every], HEIGHT - BOTTOM, TOP)
    parts = [*_grid(x_of, y_of, x_label)]
    if marked is not None:
        at = x_of.place(marked)
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke-dasharray="4" '
            f'style="stroke: {COLOURS[3]}"/>'
        )
    for number, (name, points) in enumerate(drawn.items()):
        parts += _curve(name, [(x_of.place(x), y_of.place(y)) for x, y in points], colour(number))
    top = 0
    if 1 < len(drawn) <= MOST_NAMES:
        top = NAME_HEIGHT
        parts += _names(list(drawn))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 {-top} {WIDTH} {HEIGHT + top}" width="{WIDTH}" '
        f'height="{HEIGHT + top}" style="max-width: 760px" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#777">'
        f"{''.join(parts)}</svg>"
    )


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most MOST_POINTS of `points`: the least and the largest of each stretch, so no spike is lost."""
    if len(points) <= MOST_POINTS:
        return list(points)
    size = math.ceil(len(points) / (MOST_POINTS / 2))
    found: list[Point] = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        ends = (min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1]))
        found += sorted(set(ends))
    return found


def _finite(points: Iterable[Point], log_x: bool) -> list[Point]:
    return [p for p in points if math.isfinite(p[1]) and (p[0] > 0 or not log_x)]


def _grid(x_of: _Axis, y_of: _Axis, x_label: str) -> Iterable[str]:
    for value in y_of.ticks():
        at = y_of.place(value)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#8884"/>'
        yield f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{value:.6g}</text>'
    for value in x_of.ticks():
        at = x_of.place(value)
        yield f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value:.6g}</text>'
    yield f'<text x="{WIDTH / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>'


def _curve(name: str, places: Sequence[Point], own: str) -> Iterable[str]:
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    title = f"<title>{escape(name)}</title>"
    yield f'<polyline fill="none" stroke="{own}" stroke-width="1.8" points="{line}">{title}</polyline>'
    if len(places) <= MOST_DOTS:
        for x, y in places:
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{own}">{title}</circle>'


def _names(names: Sequence[str]) -> Iterable[str]:
    width = (WIDTH - LEFT - RIGHT) / MOST_NAMES
    for number, name in enumerate(names):
        x = LEFT + number * width
        yield f'<circle cx="{x + 5:.1f}" cy="-6" r="4" fill="{colour(number)}"/>'
        yield f'<text x="{x + 14:.1f}" y="-2">{escape(name)}</text>'


class _Axis:
    """The range of `values` between two places of the picture; of their logarithms if `log`."""

    def __init__(self, values: Sequence[float], start: float, end: float, log: bool = False) -> None:
        self._start, self._end, self._log = start, end, log
        self._low, self._high = self._of(min(values)), self._of(max(values))

    def _of(self, value: float) -> float:
        return math.log10(value) if self._log else value

    def place(self, value: float) -> float:
        """Where `value` is drawn; in the middle if there is one value only."""
        span = self._high - self._low
        share = (self._of(value) - self._low) / span if span > 0 else 0.5
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[float]:
        """Round values, about NUM_TICKS; powers of ten where the axis is logarithmic."""
        span = self._high - self._low
        if span <= 0:
            return [10**self._low if self._log else self._low]
        if self._log and span >= 1:
            first, last = math.ceil(self._low - 1e-9), math.floor(self._high + 1e-9)
            return [10.0**power for power in range(first, last + 1, math.ceil(span / (2 * NUM_TICKS)))]
        low, high = (10**v if self._log else v for v in (self._low, self._high))
        step = _round_step((high - low) / NUM_TICKS)
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def _round_step(wanted: float) -> float:
    """The least of 1, 2, 5, 10, ... times a power of ten that is at least `wanted`."""
    power: float = 10.0 ** math.floor(math.log10(wanted))
    return next((digit * power for digit in (1, 2, 5) if digit * power >= wanted), 10 * power)
