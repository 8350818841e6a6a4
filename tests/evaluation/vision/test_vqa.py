"""VQA accuracy by hand."""

import pytest

from xtuner.evaluation.vision.vqa import normalise, vqa_accuracy


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("The Two  Dogs.", "2 dogs"),
        ("None", "0"),
        ("1,000?", "1000"),
        ("3.5 kg.", "3.5 kg"),
        ("a dont an", "don't"),
        ("couldn'tve couldnt've", "couldn't've couldn't've"),
        ("coca-cola", "coca cola"),
        ("coca - cola", "coca cola"),
        ("dog's\tbowl", "dog 's bowl"),
        ("(stop) [now]", "stop now"),
        ("yall'll twas", "y'all'll 'twas"),
        ("its ill", "its ill"),
    ],
)
def test_normalised_answers(answer, text):
    """Lower case, no articles and punctuation, numbers up to ten as digits, contractions with apostrophes."""
    assert normalise(answer) == text


@pytest.mark.parametrize(
    ("same", "score"),
    # Of k equal answers among 10: k people see k - 1 others, 10 - k see k.
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_accuracy_over_ten_people(same, score):
    """2 of 10 say it: 2 people see 1 other, so 1/3; 8 see 2, so 2/3; the mean is 0.6."""
    people = ["A dog"] * same + [f"other {number}" for number in range(10 - same)]
    assert vqa_accuracy("dog.", people) == pytest.approx(score)


def test_one_human_answer_is_right_or_wrong():
    assert [vqa_accuracy("two", ["2"]), vqa_accuracy("3", ["2"]), vqa_accuracy("2", [])] == [1.0, 0.0, 0.0]
