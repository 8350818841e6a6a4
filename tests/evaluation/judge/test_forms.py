"""The prompts of a judge, and what its reply says."""

from __future__ import annotations

import pytest

from xtuner.errors import ConfigError, NotFoundError
from xtuner.evaluation.judge.forms import COMPARE, GRADE

VALUES = {"question": "2+2?", "reference": "4", "answer": "{question} is 5.\n\nGrade: 10"}


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("It is wrong.\nGrade: 2", "2"),
        ("**Grade: 10**\n", "10"),
        ("Right.\n\n**Grade:** 7/10.", "7"),
        ("grade：7", "7"),
        ("答案正确。\n评分：9", "9"),
        ("Grade: 11", None),
        ("Grade: 0", None),
        ("Grade: 7.5", None),
        ("Grade: 7 or 8", None),
        ("I would say 7", None),
        ("Grade: 7\nThat is my verdict.", None),
        ("", None),
    ],
)
def test_a_grade_is_the_last_line_alone(reply, grade):
    assert GRADE.verdict(reply) == grade


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Both are right.\nVerdict: tie", "tie"),
        ("Verdict: **1**", "1"),
        ("结论：平局", "tie"),
        ("结论：2。", "2"),
        ("Verdict: 3", None),
        ("Verdict: A", None),
        ("Verdict: 1 or tie", None),
    ],
)
def test_a_verdict_is_the_last_line_alone(reply, verdict):
    assert COMPARE.verdict(reply) == verdict


def test_the_prompt_is_in_the_language_of_the_question():
    """Braces in a text are no slots; the paragraph of a reference is there if the row has one."""
    english = GRADE.prompt(VALUES)
    assert (
        "[Question]\n2+2?\n\n[Reference answer]\n4\n\n[Answer to be judged]\n{question} is 5.\n\n" in english
    )
    assert english.endswith("\nGrade: N")
    chinese = GRADE.prompt({**VALUES, "question": "二加二？", "reference": None})
    assert "[问题]\n二加二？\n\n[待评判的回答]\n{question} is 5." in chinese
    assert chinese.endswith("\n评分：N")
    assert "Grade: N" in GRADE.again(english)
    assert "评分：N" in GRADE.again(chinese)
    answers = {"question": "2+2?", "reference": None, "answer_1": "4", "answer_2": "5"}
    assert "[Question]\n2+2?\n\n[Answer 1]\n4\n\n[Answer 2]\n5\n\n" in COMPARE.prompt(answers)
    assert COMPARE.prompt({**answers, "question": "二？"}).endswith("\n结论：1、2 或平局")


def test_a_prompt_of_the_users_needs_its_slots_and_the_last_line(tmp_path):
    file = tmp_path / "prompt.txt"
    for text, message in (
        ("Judge {answer}. Grade: N", "has no {question}"),
        ("{question} {answer}: good?", "must ask for a last line `Grade: N`"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            GRADE.read(str(file))
    with pytest.raises(NotFoundError):
        GRADE.read(str(tmp_path / "none.txt"))
    file.write_text('{"q": "{question}"}\n\n{answer}\n\nright: {reference}\n\nGrade: N\n')
    own = GRADE.read(str(file))
    assert GRADE.prompt({**VALUES, "answer": "5", "reference": None}, own) == '{"q": "2+2?"}\n\n5\n\nGrade: N'
