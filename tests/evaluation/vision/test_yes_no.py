"""Yes or no: the rules that read answers, and the counts of each benchmark, by hand."""

import pytest

from xtuner.evaluation.vision.yes_no import (
    COGNITION,
    PERCEPTION,
    Hallusion,
    binary_scores,
    hallusion_scores,
    mme_scores,
    mme_totals,
    read_first_sentence,
    read_label,
    read_prefix,
    read_words,
)


@pytest.mark.parametrize(
    ("answer", "prefix", "words", "first"),
    [
        ("Yes", "yes", "yes", "yes"),
        ("no.", "no", "no", "no"),
        ("No, there is a yes-man.", "no", None, "no"),
        ("Not at all", "no", None, "yes"),
        ("There is not. Yes", None, "yes", "no"),
        ("The answer is no", None, "no", "no"),
        ("A dog", None, None, "yes"),
        ("", None, None, "yes"),
    ],
)
def test_how_answers_are_read(answer, prefix, words, first):
    """MME reads four letters, HallusionBench words, POPE the first sentence, in which yes is the rule."""
    assert (read_prefix(answer), read_words(answer), read_first_sentence(answer)) == (prefix, words, first)


def test_labels():
    given = ["Yes", "no", 1, "0", True, "yes.", "maybe", None]
    assert [read_label(value) for value in given] == ["yes", "no", "yes", "no", "yes", "yes", None, None]


def test_mme():
    """Task count: 3 of 4 answers are right, both of one image of two; OCR has one image, half right."""
    rows = [("OCR", "a", True), ("count", "x", True), ("count", "y", True), ("OCR", "a", False)]
    rows += [("count", "x", True), ("count", "y", False), ("own", "z", True)]
    scores = mme_scores(rows)
    assert scores == {
        "count": {"acc": 75.0, "acc+": 50.0, "score": 125.0},
        "OCR": {"acc": 50.0, "acc+": 0.0, "score": 50.0},
        "own": {"acc": 100.0, "acc+": 100.0, "score": 200.0},
    }
    assert list(scores) == ["count", "OCR", "own"]
    assert mme_totals(scores) == {"perception": 175.0}
    full = mme_scores([(task, 0, True) for task in (*PERCEPTION, *COGNITION)])
    assert mme_totals(full) == {"perception": 2000.0, "cognition": 800.0}


def test_hallusionbench():
    """A figure needs all its questions, a pair all its figures; figure 0 of VS has no image."""
    rows = [
        Hallusion("VD", "illusion", "0", "0", "0", True),
        Hallusion("VD", "illusion", "0", "0", "1", False),
        Hallusion("VD", "illusion", "0", "1", "0", True),
        Hallusion("VS", "chart", "0", "0", "0", False),
        Hallusion("VS", "chart", "0", "1", "0", True),
    ]
    # Figures: VD 0 wrong, VD 1 right, VS 1 right. Pairs: VD 0 right, VD 1 wrong, VS 0 wrong.
    assert hallusion_scores(rows) == {"aAcc": 3 / 5, "fAcc": 2 / 3, "qAcc": 1 / 3}
    assert hallusion_scores(rows[3:4]) == {"aAcc": 0.0, "qAcc": 0.0}


def test_precision_and_recall():
    """Of 4 "yes" said 3 are right, of 5 true ones 3 are said; an unclear answer is wrong and not yes."""
    right = ["yes"] * 5 + ["no"] * 3
    said = ["yes", "yes", "yes", "no", None, "yes", "no", "no"]
    assert binary_scores(said, right) == {
        "accuracy": 5 / 8,
        "precision": 3 / 4,
        "recall": 3 / 5,
        "f1": pytest.approx(2 / 3),
        "yes_ratio": 1 / 2,
    }
    assert binary_scores(["no"], ["no"]) == {
        "accuracy": 1.0,
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "yes_ratio": 0.0,
    }
