"""Rows of each layout -> the question, the choices, the right one."""

from __future__ import annotations

import pytest

from xtuner.errors import DataError
from xtuner.evaluation.text.layouts import CELLS, LAYOUTS, Choices, layout_of

MMLU = {"question": "2+2?", "choices": ["3", "4"], "answer": 1, "subject": "law"}
ARC = {
    "question": "What?",
    "choices": {"text": ["ice", "fire", "air"], "label": ["1", "2", "3"]},
    "answerKey": "3",
}
OLD_ARC = {
    "question": {"stem": "What?", "choices": [{"text": "ice", "label": "A"}, {"text": "fire", "label": "B"}]},
    "answerKey": "B",
}
HELLASWAG = {
    "activity_label": "Cooking",
    "ctx_a": "A man cooks [title] Then",
    "ctx_b": "he",
    "endings": ["eats [step] it", "sleeps"],
    "label": "1",
}
CEVAL = {"id": 0, "question": "法律是____", "A": "甲", "B": "乙", "C": "丙", "D": "丁", "answer": "C"}
CMMLU = {"Question": "法律是", "A": "甲", "B": "乙", "C": "丙", "D": "丁", "Answer": "D"}
OWN = {"question": "Which?", "A": "one", "B": "two", "answer": "b"}


@pytest.mark.parametrize(
    ("row", "name", "item"),
    [
        (MMLU, "mmlu", Choices("2+2?", ["3", "4"], 1)),
        (
            dict(zip(CELLS, ["q", "B", "A", "x", "y", "B"], strict=True)),
            "mmlu",
            Choices("q", ["B", "A", "x", "y"], 1),
        ),
        (ARC, "arc", Choices("What?", ["ice", "fire", "air"], 2)),
        (OLD_ARC, "arc", Choices("What?", ["ice", "fire"], 1)),
        (HELLASWAG, "hellaswag", Choices("Cooking: A man cooks. Then He", ["eats it", "sleeps"], 1)),
        (CEVAL, "ceval", Choices("法律是____", ["甲", "乙", "丙", "丁"], 2)),
        (CMMLU, "cmmlu", Choices("法律是", ["甲", "乙", "丙", "丁"], 3)),
        (OWN, "choices", Choices("Which?", ["one", "two"], 1)),
        ({"question": "q", "choices": ["x", "y"], "answer": "y"}, "choices", Choices("q", ["x", "y"], 1)),
        ({"question": "q", "choices": ["x", "y"]}, "choices", Choices("q", ["x", "y"], None)),
        ({"question": "q", "choices": [3, 4], "answer": 0.0}, "choices", Choices("q", ["3", "4"], 0)),
    ],
)
def test_a_row_of_each_layout_is_read(row, name, item):
    """The layout is found by the fields; the right choice is a number, a letter, or its text."""
    assert layout_of(row) == name
    assert LAYOUTS[name].read(row) == item


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**MMLU, "answer": 2}, "the answer 2 is none of the 2 choices"),
        ({**MMLU, "answer": "no"}, "the answer 'no' is none of the 2 choices"),
        ({**MMLU, "choices": "3 or 4"}, "'choices' is no list of two texts or more"),
        ({**MMLU, "choices": ["3"]}, "'choices' is no list of two texts or more"),
    ],
)
def test_a_wrong_row_says_what_is_wrong(row, message):
    with pytest.raises(DataError, match=message):
        LAYOUTS["choices"].read(row)


def test_prompts_are_those_of_the_benchmarks():
    """A letter is chosen after the options, or a text after the question."""
    mmlu, arc, ceval = (LAYOUTS[name] for name in ("mmlu", "arc", "ceval"))
    item = mmlu.read(MMLU)
    assert mmlu.header("college_law") == (
        "The following are multiple choice questions (with answers) about college law.\n\n"
    )
    assert (mmlu.ask(item), mmlu.continuations(item)) == ("2+2?\nA. 3\nB. 4\nAnswer:", [" A", " B"])
    item = arc.read(ARC)
    assert (arc.ask(item), arc.continuations(item)) == ("Question: What?\nAnswer:", [" ice", " fire", " air"])
    assert ceval.header("law") == "以下是中国关于法学的单项选择题，请选出其中的正确答案。\n\n"
    assert ceval.ask(ceval.read(CEVAL)).endswith("D. 丁\n答案：")
