"""Layouts of questions with choices: a row -> the question, its choices and the right one.

mmlu        {"question", "choices": [4 texts], "answer": 1, "subject"}, or six cells without names
ceval       {"question", "A", "B", "C", "D", "answer": "B"}, in Chinese    cmmlu: {"Question", ..., "Answer"}
arc         {"question", "choices": {"text": [...], "label": ["A", ...]}, "answerKey": "B"}
hellaswag   {"ctx_a", "ctx_b", "activity_label", "endings": [4 texts], "label": "1"}
choices     {"question", "choices": [...] or "A", "B", ..., "answer": a number from 0, a letter, or a choice}

Prompts are those of lm-evaluation-harness, so accuracies compare. Of the first three the model chooses a
letter, of the others a text.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xtuner.errors import DataError
from xtuner.evaluation.text import subjects
from xtuner.language import translate

Row = Mapping[str, Any]
LETTERS = string.ascii_uppercase
CELLS = ("question", "choice 1", "choice 2", "choice 3", "choice 4", "answer")
"""The names of MMLU's cells, whose files do not name them."""

_CHINESE = re.compile("[\u3400-\u9fff]")


@dataclass(frozen=True)
class Choices:
    """A question, its choices, and the number of the right one; None if the row does not say."""

    question: str
    choices: Sequence[str]
    right: int | None


@dataclass(frozen=True)
class Layout:
    """How rows are read and asked; `matches` tells whether a row is of this layout.

    `shots` examples precede a question unless the user says otherwise, where the task has any; `ask` gives
    the text of a question, `header` the text above all for a subject.
    """

    matches: Callable[[Row], bool]
    read: Callable[[Row], Choices]
    ask: Callable[[Choices], str]
    by_letter: bool = True
    shots: int = 0
    header: Callable[[str], str] = lambda subject: ""

    def continuations(self, item: Choices) -> list[str]:
        """The texts of which the likeliest is the model's choice."""
        if self.by_letter:
            return [f" {letter}" for letter in LETTERS[: len(item.choices)]]
        return [f" {choice}" for choice in item.choices]


# --- rows -------------------------------------------------------------------------------------------------


def _has(*names: str) -> Callable[[Row], bool]:
    return lambda row: row.keys() >= set(names)


def _in_chinese(row: Row) -> bool:
    return _has("question", "A", "B")(row) and bool(_CHINESE.search(str(row["question"])))


def _cells(row: Row) -> Choices:
    if "choices" in row:
        return _own(row)
    texts = [str(row[name]) for name in CELLS[1:-1]]
    return Choices(str(row["question"]), texts, _right(row["answer"], texts, of_letters=True))


def _own(row: Row) -> Choices:
    if "choices" not in row:
        return _by_letter("question", "answer")(row)
    choices = row["choices"]
    if not isinstance(choices, Sequence) or isinstance(choices, str) or len(choices) < 2:
        raise DataError(translate("'choices' is no list of two texts or more: {value!r:.80}", value=choices))
    texts = [str(choice) for choice in choices]
    return Choices(str(row["question"]), texts, _right(row.get("answer"), texts))


def _by_letter(question: str, answer: str) -> Callable[[Row], Choices]:
    def read(row: Row) -> Choices:
        texts = [str(row[letter]) for letter in LETTERS if row.get(letter) not in (None, "")]
        return Choices(str(row[question]), texts, _right(row.get(answer), texts, of_letters=True))

    return read


def _arc(row: Row) -> Choices:
    given = row["question"] if isinstance(row["question"], Mapping) else row
    question = given.get("stem", row["question"])
    choices = given["choices"]
    if isinstance(choices, Mapping):
        texts, labels = list(choices["text"]), list(choices["label"])
    else:
        texts, labels = [c["text"] for c in choices], [c["label"] for c in choices]
    key = row.get("answerKey")
    if key in (None, ""):
        return Choices(question, texts, None)
    if key not in labels:
        raise DataError(
            translate("answerKey is {key!r}, none of {labels}", key=key, labels=", ".join(labels))
        )
    return Choices(question, texts, labels.index(key))


def _hellaswag(row: Row) -> Choices:
    context = f"{row['ctx_a']} {row['ctx_b'].capitalize()}"
    question = _without_marks(f"{row['activity_label']}: {context}")
    right = row.get("label")
    texts = [_without_marks(ending) for ending in row["endings"]]
    return Choices(question, texts, None if right in (None, "") else _right(int(right), texts))


def _without_marks(text: str) -> str:
    """`text` without the marks in brackets that WikiHow's texts have."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _right(answer: Any, texts: Sequence[str], of_letters: bool = False) -> int | None:
    """The number of the right choice; `of_letters`: a letter is never the text of a choice."""
    if answer is None or answer == "":
        return None
    text = str(int(answer) if isinstance(answer, float) and answer.is_integer() else answer).strip()
    if not of_letters and isinstance(answer, str) and answer in texts:
        number = texts.index(answer)
    elif len(text) == 1 and text.upper() in LETTERS:
        number = LETTERS.index(text.upper())
    else:
        number = int(text) if text.isdecimal() else -1
    if not 0 <= number < len(texts):
        what = "the answer {answer!r} is none of the {count} choices"
        raise DataError(translate(what, answer=answer, count=len(texts)))
    return number


# --- prompts ----------------------------------------------------------------------------------------------


def _with_letters(answer: str) -> Callable[[Choices], str]:
    def ask(item: Choices) -> str:
        lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, item.choices, strict=False)]
        return "\n".join([item.question.strip(), *lines, answer])

    return ask


def _english(subject: str) -> str:
    about = f" about {subject.replace('_', ' ')}" if subject else ""
    return f"The following are multiple choice questions (with answers){about}.\n\n"


def _ceval(subject: str) -> str:
    return f"以下是中国关于{subjects.CEVAL.get(subject, subject)}的单项选择题，请选出其中的正确答案。\n\n"


def _cmmlu(subject: str) -> str:
    return f"以下是关于{subjects.CMMLU.get(subject, subject)}的单项选择题，请直接给出正确答案的选项。\n\n"


LAYOUTS: dict[str, Layout] = {
    "cmmlu": Layout(
        _has("Question", "A", "B"),
        _by_letter("Question", "Answer"),
        _with_letters("答案："),
        shots=5,
        header=_cmmlu,
    ),
    "ceval": Layout(
        _in_chinese, _by_letter("question", "answer"), _with_letters("答案："), shots=5, header=_ceval
    ),
    "hellaswag": Layout(
        _has("ctx_a", "ctx_b", "activity_label", "endings"),
        _hellaswag,
        lambda item: item.question,
        by_letter=False,
    ),
    "arc": Layout(
        _has("question", "answerKey"),
        _arc,
        lambda item: f"Question: {item.question}\nAnswer:",
        by_letter=False,
    ),
    "mmlu": Layout(
        lambda row: _has("question", "choices", "answer", "subject")(row) or _has(*CELLS)(row),
        _cells,
        _with_letters("Answer:"),
        shots=5,
        header=_english,
    ),
    "choices": Layout(
        lambda row: _has("question", "choices")(row) or _has("question", "A", "B")(row),
        _own,
        _with_letters("Answer:"),
        header=_english,
    ),
}
"""In the order in which they are tried."""


def layout_of(row: Row) -> str | None:
    """The name of the layout of `row`; None if it has no choices."""
    return next((name for name, layout in LAYOUTS.items() if layout.matches(row)), None)
