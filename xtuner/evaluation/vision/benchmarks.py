"""Benchmarks: how a row becomes a question, and how the answers become scores.

file or columns                              benchmark        scores
A, B, ... (MMBench, CCBench)                 mmbench          circular accuracy, by category
name begins with mme                         mme              acc, acc+ of each task; perception and cognition
name has hallusion; set_id, figure_id        hallusionbench   aAcc, fAcc, qAcc
name has pope; answers are yes or no         pope             accuracy, precision, recall, F1, ratio of yes
a list of answers                            textvqa          VQA accuracy
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xtuner.errors import ConfigError, DataError
from xtuner.evaluation.vision import choices, vqa, yes_no
from xtuner.evaluation.vision.rows import Asked, Row
from xtuner.language import translate

CHOOSE = "Answer with the option's letter from the given choices directly."
CHOOSE_CHINESE = "请直接回答选项字母。"
YES_OR_NO = "Please answer yes or no."
SHORT = "Answer the question using a single word or phrase."
_CHINESE = re.compile("[\u4e00-\u9fff]")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Cells = dict[str, Any]


@dataclass(frozen=True)
class Answered:
    """A question that was answered: its fields, and the answer, "" if it has none."""

    index: int | str
    row: Row
    answer: str
    image_key: str
    file: str


@dataclass
class Scores:
    """Scores of a benchmark.

    metrics: name -> number, for JSON.
    header, sections: the table on the terminal, lines of cells.
    cells: what is added to the line of each answer in the workbook.
    num_unclear: the number of answers that could not be read; they count as wrong, or as yes.
    summary: a line below the table.
    """

    metrics: dict[str, float]
    header: Sequence[str]
    sections: Sequence[Sequence[Sequence[str]]]
    cells: list[Cells] = field(default_factory=list)
    num_unclear: int = 0
    unclear_is_yes: bool = False
    summary: str = ""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark; each of `columns` is a choice of names, one of which rows must have.

    `ask` makes the questions of a row, with an instruction that replaces its own if it is not None. `answers`
    are the columns of right answers.
    """

    name: str
    title: str
    columns: Sequence[Sequence[str]]
    index: Sequence[str]
    ask: Callable[[Row, str | None], Iterable[Asked]]
    score: Callable[[Sequence[Answered]], Scores]
    answers: Sequence[str] = ("answer",)

    @property
    def file(self) -> str:
        """The start of the names of the files of results."""
        return f"{self.name}_result"


def cell(row: Row, *names: str) -> str:
    """The text of the first field of `names` that is filled in, as it is, or ""."""
    for name in names:
        value = row.get(name)
        if value is None or value != value or isinstance(value, (list, tuple, dict)):
            continue
        if str(value).strip() not in ("", "nan"):
            return str(value)
    return ""


def _needed(row: Row, *names: str) -> str:
    if text := cell(row, *names):
        return text
    raise DataError(translate("the row has no {name}", name=names[0]))


def with_instruction(question: str, instruction: str | None, own: str, *known: str) -> str:
    """`question` and below it the instruction: the given one, else `own` unless it has one of `known`."""
    if instruction is None:
        instruction = "" if any(text.lower() in question.lower() for text in (own, *known)) else own
    return f"{question}\n{instruction}" if instruction else question


# MMBench and CCBench


def options_of(row: Row) -> dict[str, str]:
    """Letter -> text of each option of a row."""
    return {letter: text for letter in _LETTERS if (text := cell(row, letter))}


def ask_choice(row: Row, instruction: str | None) -> list[Asked]:
    """The hint, the question and its options, one a line, and the instruction in the language of the text."""
    options = options_of(row)
    if not options:
        raise DataError(translate("the row has no options"))
    lines = [cell(row, "hint"), _needed(row, "question")]
    lines += [f"{letter}. {text}" for letter, text in options.items()]
    text = "\n".join(filter(None, lines))
    own = CHOOSE_CHINESE if _CHINESE.search(text) else CHOOSE
    return [Asked(f"{text}\n{own if instruction is None else instruction}".rstrip("\n"))]


def score_choices(answered: Sequence[Answered]) -> Scores:
    """Circular accuracy of all questions, of level-2 categories and of categories."""
    cells: list[Cells] = []
    for one in answered:
        letter = choices.find_choice(one.answer, options_of(one.row))
        right = cell(one.row, "answer").strip().upper()
        cells.append({"choice": letter, "hit": int(letter == right)})
    rows = [(_number(one.index), bool(c["hit"])) for one, c in zip(answered, cells, strict=True)]
    hits = choices.circular_hits(rows)
    first: dict[int, Row] = {}
    for one in sorted(answered, key=lambda one: _number(one.index)):
        first.setdefault(_number(one.index) % choices.CYCLE, one.row)
    average = sum(hits.values()) / len(hits)
    metrics, sections = {"Average": average}, [[["Average", _percent(average)]]]
    for names in (("l2-category", "L2-category"), ("category",)):
        found = choices.accuracy_by(list(hits.values()), [cell(first[q], *names) for q in hits])
        short = {choices.ABBREVIATIONS.get(key, key): value for key, value in found.items()}
        metrics.update(dict(sorted(short.items())))
        sections.append([[key, _percent(value)] for key, value in sorted(short.items())])
    unclear = sum(not c["choice"] for c in cells)
    return Scores(metrics, ["Category", "Accuracy (%)"], sections, cells, unclear)


def _number(index: int | str) -> int:
    if isinstance(index, int):
        return index
    raise DataError(
        translate("the index {index!r} is no number: rotations are found by numbers", index=index)
    )


# Yes or no


def ask_yes_no(row: Row, instruction: str | None) -> list[Asked]:
    """The question, and the instruction to answer yes or no unless it has one."""
    question = _needed(row, "question", "text")
    return [Asked(with_instruction(question, instruction, YES_OR_NO, SHORT))]


def _read(
    answered: Sequence[Answered], read: Callable[[str], str | None], *names: str
) -> tuple[list[Cells], list[str]]:
    """What each answer says, and the right answers; DataError for one that is neither yes nor no."""
    cells: list[Cells] = []
    right: list[str] = []
    for one in answered:
        label = yes_no.read_label(cell(one.row, *names))
        if label is None:
            what = "the answer of question {index} is {value!r}, but must be yes or no"
            raise DataError(translate(what, index=one.index, value=cell(one.row, *names)))
        said = read(one.answer)
        cells.append({"said": said or "", "hit": int(said == label)})
        right.append(label)
    return cells, right


def score_mme(answered: Sequence[Answered]) -> Scores:
    """acc, acc+ and their sum of each task, and the sums of perception and cognition."""
    cells, _ = _read(answered, yes_no.read_prefix, "answer")
    rows = [
        (
            cell(one.row, "category"),
            cell(one.row, "image_path", "question_id") or one.image_key,
            bool(c["hit"]),
        )
        for one, c in zip(answered, cells, strict=True)
    ]
    scores = yes_no.mme_scores(rows)
    totals = yes_no.mme_totals(scores)
    metrics = dict(totals)
    for task, found in scores.items():
        metrics |= {task: found["score"], f"{task}/acc": found["acc"], f"{task}/acc+": found["acc+"]}
    sections = [[[name, "", "", f"{value:.2f}"] for name, value in totals.items()]]
    sections.append(
        [[task, *(f"{found[n]:.2f}" for n in ("acc", "acc+", "score"))] for task, found in scores.items()]
    )
    unclear = sum(not c["said"] for c in cells)
    return Scores(metrics, ["Task", "acc", "acc+", "Score"], sections, cells, unclear)


def score_hallusion(answered: Sequence[Answered]) -> Scores:
    """aAcc, fAcc and qAcc of all questions and of each category."""
    cells, _ = _read(answered, yes_no.read_words, "gt_answer", "answer")
    rows = [_hallusion(one, bool(c["hit"])) for one, c in zip(answered, cells, strict=True)]
    metrics: dict[str, float] = {}
    sections: list[list[list[str]]] = []
    for name in ("", *sorted({row.category for row in rows})):
        found = yes_no.hallusion_scores([row for row in rows if name in ("", row.category)])
        metrics |= {f"{name}/{key}" if name else key: value for key, value in found.items()}
        line = [_percent(found[key]) if key in found else "" for key in ("aAcc", "fAcc", "qAcc")]
        sections.append([[name or translate("Overall"), *line]])
    unclear = sum(not c["said"] for c in cells)
    return Scores(metrics, ["Category", "aAcc (%)", "fAcc (%)", "qAcc (%)"], sections, cells, unclear)


def _hallusion(one: Answered, is_right: bool) -> yes_no.Hallusion:
    """A question with its ids: from its columns, or from an index such as image_VS_map_0_1_2."""
    ids = [cell(one.row, name) for name in ("set_id", "figure_id", "question_id")]
    if not all(ids):
        ids = str(one.index).split("_")[-3:]
        if len(ids) < 3:
            what = "question {index} has no set_id, figure_id and question_id"
            raise DataError(translate(what, index=one.index))
    set_id, figure_id, question_id = ids
    category, subcategory = cell(one.row, "category"), cell(one.row, "subcategory", "l2-category")
    return yes_no.Hallusion(category, subcategory, set_id, figure_id, question_id, is_right)


def score_pope(answered: Sequence[Answered]) -> Scores:
    """Accuracy, precision, recall, F1 and the ratio of yes, of all questions and of each category or file."""
    cells, right = _read(
        answered, lambda text: yes_no.read_first_sentence(text) if text else None, "label", "answer"
    )
    groups: dict[str, list[int]] = {"": list(range(len(answered)))}
    for number, one in enumerate(answered):
        groups.setdefault(cell(one.row, "category") or one.file, []).append(number)
    if len(groups) == 2:
        groups = {"": groups[""]}
    metrics: dict[str, float] = {}
    sections: list[list[list[str]]] = []
    for name, numbers in groups.items():
        found = yes_no.binary_scores([cells[n]["said"] or None for n in numbers], [right[n] for n in numbers])
        metrics |= {f"{name}/{key}" if name else key: value for key, value in found.items()}
        sections.append([[name or translate("Overall"), *map(_percent, found.values())]])
    unclear = sum(yes_no.read_words(one.answer) is None for one in answered)
    header = ["Category", "Accuracy (%)", "Precision (%)", "Recall (%)", "F1 (%)", "Yes (%)"]
    lines = [sections[0], [section[0] for section in sections[1:]]]
    return Scores(metrics, header, lines, cells, unclear, unclear_is_yes=True)


# Short answers that people gave too


def ask_short(row: Row, instruction: str | None) -> list[Asked]:
    """The question, and the instruction to answer shortly."""
    return [Asked(with_instruction(_needed(row, "question", "text"), instruction, SHORT))]


def people_of(row: Row) -> list[str]:
    """The answers that people gave: a list of texts or of {"answer": text}, or such a list as text."""
    value = row.get("answers")
    value = row.get("answer") if value in (None, "", []) else value
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            value = [value]
    if isinstance(value, str) or not isinstance(value, Iterable):
        value = [] if value is None else [value]
    return [str(one.get("answer", "")) if isinstance(one, Mapping) else str(one) for one in value]


def score_vqa(answered: Sequence[Answered]) -> Scores:
    """The mean VQA accuracy, of all questions and of each category."""
    cells: list[Cells] = [
        {"normalised": vqa.normalise(one.answer), "score": vqa.vqa_accuracy(one.answer, people_of(one.row))}
        for one in answered
    ]
    groups: dict[str, list[float]] = {"": [c["score"] for c in cells]}
    for one, scored in zip(answered, cells, strict=True):
        if category := cell(one.row, "category"):
            groups.setdefault(category, []).append(scored["score"])
    means = {name: sum(scores) / len(scores) for name, scores in groups.items()}
    metrics = {f"{name}/accuracy" if name else "accuracy": value for name, value in means.items()}
    lines = [[name or translate("Overall"), _percent(value)] for name, value in means.items()]
    unclear = sum(not one.answer.strip() for one in answered)
    return Scores(metrics, ["", "Accuracy (%)"], [lines[:1], lines[1:]], cells, unclear)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


BENCHMARKS = {
    one.name: one
    for one in (
        Benchmark("mmbench", "MMBench", [["question"], ["A"]], ["index"], ask_choice, score_choices),
        Benchmark("mme", "MME", [["question"], ["category"]], ["index"], ask_yes_no, score_mme),
        Benchmark(
            "hallusionbench",
            "HallusionBench",
            [["question"], ["category"], ["subcategory", "l2-category"]],
            ["index"],
            ask_yes_no,
            score_hallusion,
            ("gt_answer", "answer"),
        ),
        Benchmark(
            "pope",
            "POPE",
            [["question", "text"]],
            ["index", "question_id"],
            ask_yes_no,
            score_pope,
            ("label", "answer"),
        ),
        Benchmark(
            "textvqa",
            "TextVQA",
            [["question", "text"]],
            ["index", "question_id"],
            ask_short,
            score_vqa,
            ("answers", "answer"),
        ),
    )
}


def find_benchmark(path: str, row: Row) -> Benchmark:
    """The benchmark of a file by its name and the columns of its first row; ConfigError if it is unknown."""
    name, columns = Path(path).name.lower(), set(row)
    label = yes_no.read_label(cell(row, "label", "answer"))
    people = row.get("answers", row.get("answer"))
    if {"A", "B"} <= columns:
        found = "mmbench"
    elif "hallusion" in name or {"set_id", "figure_id"} <= columns:
        found = "hallusionbench"
    elif name.startswith("mme") and "category" in columns:
        found = "mme"
    elif "pope" in name or (label is not None and "answers" not in columns):
        found = "pope"
    elif "vqa" in name or isinstance(people, (list, tuple)) or str(people or "").startswith("["):
        found = "textvqa"
    else:
        what = (
            "the benchmark of {path} is unknown (its columns are {columns}): name it with --benchmark {names}"
        )
        raise ConfigError(
            translate(what, path=path, columns=", ".join(map(str, row)), names="|".join(BENCHMARKS))
        )
    return BENCHMARKS[found]


def check_columns(benchmark: Benchmark, path: str, row: Row) -> None:
    """Raise DataError if the first row of a file lacks a column of `benchmark`."""
    for names in benchmark.columns:
        if not any(name in row for name in names):
            what = "{path} has no column {name}, which {benchmark} needs; its columns are {columns}"
            raise DataError(
                translate(
                    what,
                    path=path,
                    name=translate(" or ").join(map(repr, names)),
                    benchmark=benchmark.title,
                    columns=", ".join(map(str, row)),
                )
            )


def has_answer(benchmark: Benchmark, row: Row) -> bool:
    """Whether a row has a right answer to compare with."""
    return any(row.get(name) not in (None, "", []) for name in benchmark.answers)
