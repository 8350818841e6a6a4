"""Metrics of answers."""

from __future__ import annotations

import pytest

from xtuner.errors import ConfigError
from xtuner.evaluation.text.metrics import default_metrics, find_metric


def score(name, answer, reference):
    return find_metric(name)("", answer, reference, {})


@pytest.mark.parametrize(
    ("name", "answer", "reference", "value"),
    [
        ("exact", " Paris\n", "Paris", 1),
        ("exact", "paris", "Paris", 0),
        ("contains", "It is Paris.", "Paris", 1),
        ("contains", "It is Rome.", "", 0),
        ("numeric", "5 apples and 7 pears make 1,200.", "because ... #### 1200", 1),
        ("numeric", "#### 3.50", "3.5", 1),
        ("numeric", "1/2", "0.5", 1),
        ("numeric", "-4", "4", 0),
        ("numeric", "none", "4", 0),
        ("boxed", r"so \boxed{\dfrac{1}{2}} is right", r"\frac{1}{2}", 1),
        ("boxed", r"\boxed{1} or \boxed{ 1,000 }", r"thus \boxed{1000}", 1),
        ("boxed", r"\boxed{\text{no}}", "no", 1),
        ("boxed", "1", "1", 0),
        ("letter", "(B) because", "B", 1),
        ("letter", "The answer is C.", "B", 0),
    ],
)
def test_an_answer_is_right_or_wrong(name, answer, reference, value):
    assert score(name, answer, reference) == value


# Of rouge_score 0.1.2 and sacrebleu 2.6 (add-k, 1).
A = "the cat sat on the mat and looked at the small red bird"
B = "a cat sat on a mat and it looked at a red bird there"


@pytest.mark.parametrize(
    ("name", "answer", "reference", "value"),
    [
        ("rouge1", A, B, 0.6666666666666666),
        ("rouge2", A, B, 0.4),
        ("rougeL", A, B, 0.6666666666666666),
        ("bleu", A, B, 24.42494036740892),
        ("bleu", "我喜欢猫", "我很喜欢小猫", 32.58798048281462),
        ("bleu", "", B, 0.0),
        ("rougeL", "", B, 0.0),
    ],
)
def test_texts_are_compared_as_others_do(name, answer, reference, value):
    """BLEU and ROUGE of words, and of characters of Chinese."""
    assert score(name, answer, reference) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize(
    ("references", "names"),
    [
        (["so #### 4", "#### 5"], ["numeric"]),
        ([r"\boxed{4}"], ["boxed"]),
        (["A", "(B)"], ["letter"]),
        (["12", "1.5 %"], ["numeric"]),
        (["Paris", "the red bird"], ["exact", "contains"]),
        (["A long answer with many more words than five."], ["bleu", "rougeL"]),
    ],
)
def test_metrics_fit_the_references(references, names):
    assert default_metrics(references) == names


def test_a_function_of_the_user_is_a_metric(tmp_path):
    """It gets the question, the answer and the row."""
    (tmp_path / "own.py").write_text("def short(question, answer, row): return len(answer) <= row['most']\n")
    metric = find_metric(f"{tmp_path / 'own.py'}:short")
    assert [metric("", answer, "", {"most": 3}) for answer in ("yes", "perhaps")] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rouge", "there is no such metric. Did you mean 'rouge"),
        ("math:nothing", "there is no function nothing"),
        ("none.py:f", "cannot be loaded"),
    ],
)
def test_a_metric_that_is_not_there_is_one_line(name, message):
    with pytest.raises(ConfigError, match=message):
        find_metric(name)
