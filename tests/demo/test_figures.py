from __future__ import annotations

import random

import numpy as np
import pytest

from xtuner.demo.figures import (
    CATEGORIES,
    COLOURS,
    SAID,
    SHAPES,
    SIZE,
    Figure,
    draw,
    make_captions,
    make_held_out,
    make_questions,
)

FIGURES = [Figure("red", "star"), Figure("black", "heart")]
FILES = ["0.png", "1.png"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_a_figure_is_whole_and_of_its_colour(colour, shape):
    """The edge of the picture is light; what is dark has the shade nearest to the named colour."""
    rng = random.Random(0)
    for _ in range(5):
        pixels = np.asarray(draw(Figure(colour, shape), rng)).astype(int)
        assert pixels.shape == (SIZE, SIZE, 3)
        ground = pixels[0, 0]
        edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (edge == ground).all()
        inside = pixels[np.abs(pixels - ground).sum(-1) > 150]
        assert len(inside) > 0.05 * SIZE**2
        shade = np.median(inside, axis=0)
        assert min(COLOURS, key=lambda name: np.abs(shade - COLOURS[name]).sum()) == colour


def test_pictures_of_one_figure_differ_and_are_the_same_for_the_same_seed():
    """Place, size, angle and shade are those of the random numbers."""
    rng = random.Random(1)
    first, second, again = (draw(FIGURES[0], source) for source in (rng, rng, random.Random(1)))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != second.tobytes()


def test_captions_and_questions_are_conversations():
    """A caption names both; the questions about a picture come in either order, below its image."""
    rows = make_captions(FILES, FIGURES, "en", 0)
    assert [row["image"] for row in rows] == FILES
    assert [row["conversations"][1]["value"] for row in rows] == ["a red star", "a black heart"]
    many = make_questions(["0.png"] * 20, FIGURES[:1] * 20, "en", 0)
    for row in many:
        (asked, said, *_), values = row["conversations"], [turn["value"] for turn in row["conversations"]]
        assert (asked["from"], said["from"]) == ("human", "gpt")
        assert [value.startswith("<image>\n") for value in values] == [True, False, False, False]
        for question, answer in zip(values[::2], values[1::2], strict=True):
            category = CATEGORIES[answer == "star"]
            assert question.removeprefix("<image>\n") in getattr(SAID["en"], category)
    assert {row["conversations"][1]["value"] for row in many} == {"red", "star"}


def test_held_out_rows_have_a_category_each():
    """Two rows for a picture, as `xtuner mmbench` reads them."""
    rows = make_held_out(FILES, FIGURES, "zh", 0)
    assert [(row["image"], row["answers"], row["category"]) for row in rows] == [
        ("0.png", ["红色"], "colour"),
        ("0.png", ["五角星"], "shape"),
        ("1.png", ["黑色"], "colour"),
        ("1.png", ["心形"], "shape"),
    ]
    assert all(row["question"] in getattr(SAID["zh"], row["category"]) for row in rows)


def test_each_language_names_all():
    """No two colours or shapes have one name."""
    for said in SAID.values():
        assert said.names.keys() == {*COLOURS, *SHAPES}
        assert len(set(said.names.values())) == len(said.names)
