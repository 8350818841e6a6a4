"""Multiple choice: the letter that an answer names, and circular evaluation by hand."""

import pytest

from xtuner.evaluation.vision.choices import accuracy_by, circular_hits, find_choice

OPTIONS = {"A": "cat", "B": "a dog", "C": "A bird", "D": "cow", "E": "none of them"}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        (" b. ", "B"),
        ("(B)", "B"),
        ("B. a dog", "B"),
        ("B: the animal is a dog", "B"),
        ("B because it barks", "B"),
        ("E", "E"),
        ("A dog.", "B"),
        ("a bird", "C"),
        ("A cat", "A"),
        ("Answer: B", "B"),
        ("The answer is D, a cow.", "D"),
        ("答案是C。", "C"),
        ("**B**", "B"),
        ("A or B", "A"),
        ("It may be A or B", ""),
        ("A small animal", ""),
        ("I think B", "B"),
        ("AB", ""),
        ("F", ""),
        ("", ""),
    ],
)
def test_the_letter_that_an_answer_names(answer, letter):
    """A letter at the start, the text of one option, or the only letter that stands alone."""
    assert find_choice(answer, OPTIONS) == letter


def test_a_question_is_right_if_all_its_rotations_are():
    """Question 3 has three rotations, one of them wrong; question 4 has two, question 5 one."""
    rows = [(3, True), (4, True), (1_000_003, True), (2_000_003, False), (1_000_004, True), (5, False)]
    assert circular_hits(rows) == {3: False, 4: True, 5: False}


def test_accuracy_of_each_category():
    """Sorted by name; a question without a category is in none."""
    assert accuracy_by([True, False, True, True], ["b", "a", "a", None]) == {"a": 0.5, "b": 1.0}
