"""Curves as an SVG picture: several over each other, with axes, light or dark as the reader's system is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 900, 380, 64, 40, 14, 16
COLOURS = ("#3b82c4", "#d9822b", "#2a9d5c", "#c94c4c", "#8a63c9", "#8c6d46", "#d16ba5", "#6b7785")
NUM_TICKS = 5


def colour(number: int) -> str:
    """The colour of a curve."""
    return COLOURS[number % len(COLOURS)]


def svg_curves(
    curves: Mapping[str, Points], x_label: str, log_x: bool = False, marked: float | None = None
) -> str:
    """The picture of `curves`; `marked`: a value of x with a vertical line."""
    finite = [
        p for points in curves.values() for p in points if math.isfinite(p[1]) and (p[0] > 0 or not log_x)
    ]
    if not finite:
        return ""
    x_of, y_of = _Axis([x for x, _ in finite], log_x), _Axis([y for _, y in finite], False)

    def place(x: float, y: float) -> tuple[float, float]:
        right = LEFT + x_of.share(x) * (WIDTH - LEFT - RIGHT)
        return right, HEIGHT - BOTTOM - y_of.share(y) * (HEIGHT - BOTTOM - TOP)

    parts = []
    for y in y_of.ticks():
        _, at = place(x_of.low, y)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#8884"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{y:.4g}</text>')
    for x in x_of.ticks():
        at, _ = place(x, y_of.low)
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{x:.3g}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    if marked is not None:
        at, _ = place(marked, y_of.low)
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" '
            f'stroke="{COLOURS[3]}" stroke-dasharray="4"/>'
        )
    for number, (name, points) in enumerate(curves.items()):
        line = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in points if (x, y) in set(finite))
        parts.append(
            f'<polyline fill="none" stroke="{colour(number)}" stroke-width="1.8" points="{line}">'
            f"<title>{escape(name)}</title></polyline>"
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="#777">{"".join(parts)}</svg>'
    )


class _Axis:
    """The range of one coordinate; its logarithm if `log`."""

    def __init__(self, values: Sequence[float], log: bool) -> None:
        self._log = log
        self.low, self.high = min(values), max(values)

    def share(self, value: float) -> float:
        """The place of `value`, 0 at the least and 1 at the largest."""
        low, high, at = (math.log10(v) if self._log else v for v in (self.low, self.high, value))
        return (at - low) / (high - low) if high > low else 0.5

    def ticks(self) -> list[float]:
        """Values with a number beside the axis."""
        shares = [i / (NUM_TICKS - 1) for i in range(NUM_TICKS)]
        if self._log:
            low, high = math.log10(self.low), math.log10(self.high)
            return [10 ** (low + s * (high - low)) for s in shares]
        return [self.low + s * (self.high - self.low) for s in shares]
