"""Drawn figures, and what is said about them.

draw(Figure("red", "star"), rng)     a picture of 96 x 96: any place, size, angle and shade
captions      {"image": "figures/0000.png", "conversations": "<image>\\nWhat do you see?" -> "a red star"}
questions     the same pictures: "<image>\\nWhat colour is it?" -> "red", "Which shape is it?" -> "star"
held out      {"image": "held_out/000.png", "question": "What colour is it?", "answers": ["red"],
               "category": "colour"}, of pictures that are in no other row
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = 96  # pixels of a side
SAMPLES = 2  # drawn so much larger, for smooth edges
RADIUS = (0.26, 0.42)  # of a figure, in sides of the picture
SHADES = 20  # steps of 256 that a colour differs by
TURN = 20  # degrees to either side
COLOURS = {
    "red": (205, 40, 40),
    "yellow": (235, 200, 40),
    "green": (40, 150, 70),
    "blue": (45, 90, 205),
    "purple": (130, 60, 170),
    "black": (35, 35, 40),
}


def _star(points: int, inner: float) -> list[tuple[float, float]]:
    """A star, one point up. `inner` = cos(pi / points) makes it a polygon, 1 one of twice as many corners."""
    radii = (1.0, inner) * points
    return [
        (r * math.sin(math.pi * i / points), -r * math.cos(math.pi * i / points)) for i, r in enumerate(radii)
    ]


def _heart(steps: int = 48) -> list[tuple[float, float]]:
    angles = [math.tau * i / steps for i in range(steps)]
    return [
        (math.sin(a) ** 3, -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a)) / 16)
        for a in angles
    ]


_ARM = 0.33
_CORNERS = [(-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM)]
# The corners of each shape, in radii around its centre, y downwards.
SHAPES: dict[str, Sequence[tuple[float, float]]] = {
    "circle": _star(24, 1.0),
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": _star(3, 0.5),
    "star": _star(5, 0.42),
    "cross": [*_CORNERS, *((-x, -y) for x, y in _CORNERS)],
    "heart": _heart(),
}


class Figure(NamedTuple):
    """What a picture shows: keys of COLOURS and SHAPES."""

    colour: str
    shape: str


class Wording(NamedTuple):
    """What is asked and answered in one language."""

    names: dict[str, str]
    caption: str
    look: tuple[str, ...]
    colour: tuple[str, ...]
    shape: tuple[str, ...]

    def answer(self, figure: Figure, category: str) -> str:
        """The right answer to a question of a category, which is a field of a figure."""
        return self.names[getattr(figure, category)]


SAID = {
    "en": Wording(
        names={name: name for name in (*COLOURS, *SHAPES)},
        caption="a {colour} {shape}",
        look=("What do you see?", "Describe the picture.", "What is in the picture?"),
        colour=("What colour is it?", "Which colour does the figure have?", "Name the colour."),
        shape=("What shape is it?", "Which shape does the figure have?", "Name the shape."),
    ),
    "zh": Wording(
        names={
            **{"red": "红色", "yellow": "黄色", "green": "绿色"},
            **{"blue": "蓝色", "purple": "紫色", "black": "黑色"},
            **{"circle": "圆形", "square": "正方形", "triangle": "三角形"},
            **{"star": "五角星", "cross": "十字形", "heart": "心形"},
        },
        caption="{colour}的{shape}",
        look=("你看到了什么？", "描述一下这张图。", "图里有什么？"),
        colour=("它是什么颜色？", "图形是什么颜色的？", "说出颜色。"),
        shape=("它是什么形状？", "图形是什么形状的？", "说出形状。"),
    ),
}
CATEGORIES = ("colour", "shape")


def any_figure(rng: random.Random) -> Figure:
    return Figure(rng.choice(list(COLOURS)), rng.choice(list(SHAPES)))


def draw(figure: Figure, rng: random.Random) -> Image:
    """A picture of the figure at a random place, in a random size, angle and shade, on a light ground."""
    from PIL import Image, ImageDraw

    side = SIZE * SAMPLES
    ground = tuple(rng.randint(215, 250) for _ in range(3))
    shade = tuple(min(255, max(0, v + rng.randint(-SHADES, SHADES))) for v in COLOURS[figure.colour])
    radius = side * rng.uniform(*RADIUS)
    x, y = (rng.uniform(1.1 * radius, side - 1.1 * radius) for _ in range(2))
    angle = math.radians(rng.uniform(-TURN, TURN))
    sin, cos = radius * math.sin(angle), radius * math.cos(angle)
    image = Image.new("RGB", (side, side), ground)
    corners = [(x + cos * u - sin * v, y + sin * u + cos * v) for u, v in SHAPES[figure.shape]]
    ImageDraw.Draw(image).polygon(corners, fill=shade)
    return image.resize((SIZE, SIZE), Image.Resampling.BOX)


def make_captions(files: Sequence[str], figures: Sequence[Figure], lang: str, seed: int) -> list[dict]:
    """A row for each picture: what is seen."""
    rng, said = random.Random(seed), SAID[lang]
    rows = []
    for file, figure in zip(files, figures, strict=True):
        names = {category: said.answer(figure, category) for category in CATEGORIES}
        rows.append(_row(file, [(rng.choice(said.look), said.caption.format(**names))]))
    return rows


def make_questions(files: Sequence[str], figures: Sequence[Figure], lang: str, seed: int) -> list[dict]:
    """A row for each picture: its colour and its shape, either first."""
    rng, said = random.Random(seed), SAID[lang]
    rows = []
    for file, figure in zip(files, figures, strict=True):
        asked = rng.sample(CATEGORIES, len(CATEGORIES))
        turns = [(rng.choice(getattr(said, category)), said.answer(figure, category)) for category in asked]
        rows.append(_row(file, turns))
    return rows


def make_held_out(files: Sequence[str], figures: Sequence[Figure], lang: str, seed: int) -> list[dict]:
    """Two rows for each picture, as `xtuner mmbench` reads them: a question, its answer and its category."""
    rng, said = random.Random(seed), SAID[lang]
    return [
        {
            "image": file,
            "question": rng.choice(getattr(said, category)),
            "answers": [said.answer(figure, category)],
            "category": category,
        }
        for file, figure in zip(files, figures, strict=True)
        for category in CATEGORIES
    ]


def _row(file: str, turns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    talk = [turn for asked, answer in turns for turn in ({"from": "human", "value": asked}, _said(answer))]
    talk[0]["value"] = f"<image>\n{talk[0]['value']}"
    return {"image": file, "conversations": talk}


def _said(answer: str) -> dict[str, str]:
    return {"from": "gpt", "value": answer}
