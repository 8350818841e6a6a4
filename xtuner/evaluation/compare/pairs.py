"""Two files of answers to the same rows -> pairs.

a.jsonl    {"id": "1", "messages": [...], "prediction": "It is 4.", "reference": "4", "numeric": 1.0}
b.jsonl    {"id": "1", "messages": [...], "prediction": "It is 5.", "reference": "4", "numeric": 0.0}
pair       answers ("It is 4.", "It is 5."), scores {"numeric": (1.0, 0.0)}, difference 0.17
marked     "It is ", "4" (only here), "."      "It is ", "5" (only here), "."
"""

from __future__ import annotations

import difflib
import hashlib
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtuner import json_lines
from xtuner.errors import DataError
from xtuner.evaluation.text.metrics import CHARACTERS, find_metric
from xtuner.language import translate

_PIECES = re.compile(rf"[{CHARACTERS}]|[^\W{CHARACTERS}]+|\s+|.", re.DOTALL)
_LONG = 4000
"""Pieces of a text from which on frequent ones are not looked for, since that takes too long."""
_NO_SCORES = {"id", "messages", "prediction", "reference", "cut", "error"}


@dataclass(frozen=True)
class Pair:
    """A row with both answers; `scores` of each metric; `difference` is 0 for equal answers, at most 1."""

    id: str
    messages: Sequence[Mapping[str, Any]]
    answers: tuple[str, str]
    reference: str | None
    scores: Mapping[str, tuple[float, float]]
    difference: float

    @property
    def key(self) -> str:
        """A hash of both answers: a vote belongs to them, not to the row."""
        return hashlib.sha256("\0".join(self.answers).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Score:
    """A metric over all pairs: the means of both sides, how often each is better, and how often none is."""

    means: tuple[float, float]
    wins: tuple[int, int]
    ties: int


def read_pairs(files: tuple[Path, Path], metrics: Sequence[str] = ()) -> tuple[list[Pair], list[str]]:
    """The pairs of rows that both files answer, in the order of the first, and notes on the other rows.

    Scores are those of the files, or by `metrics` if both have references.
    """
    first, second = (_read(file) for file in files)
    shared = [name for name in first if name in second]
    notes = []
    if alone := len(first) + len(second) - 2 * len(shared):
        what = "{count:,} rows are in one of the files alone, not compared"
        notes.append(translate(what, count=alone))
    pairs = []
    unanswered = 0
    for name in shared:
        lines = first[name], second[name]
        if not all("prediction" in line for line in lines):
            unanswered += 1
            continue
        if lines[0]["messages"] != lines[1]["messages"]:
            what = "row {name} of {a} and of {b} asks something else: compare answers to the same rows"
            raise DataError(translate(what, name=name, a=files[0], b=files[1]))
        pairs.append(_pair(lines, metrics))
    if unanswered:
        what = "{count:,} rows were not answered by both: they are not compared"
        notes.append(translate(what, count=unanswered))
    if not pairs:
        raise DataError(translate("{a} and {b} have no row that both answer", a=files[0], b=files[1]))
    return pairs, notes


def _read(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    try:
        for number, line in enumerate(json_lines.read(path), 1):
            if not isinstance(line, dict) or "id" not in line or not {"prediction", "error"} & line.keys():
                what = "{path} line {number}: this is no answer of xtuner predict (id, messages, prediction)"
                raise DataError(translate(what, path=path, number=number))
            found[str(line["id"])] = line
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            translate("{path} is no file of JSON lines: {error}", path=path, error=error)
        ) from error
    return found


def _pair(lines: tuple[dict[str, Any], dict[str, Any]], metrics: Sequence[str]) -> Pair:
    a, b = lines
    answers = str(a["prediction"]), str(b["prediction"])
    reference = a.get("reference", b.get("reference"))
    if metrics and reference is not None:
        shown = "\n\n".join(str(message["content"]) for message in a["messages"])
        found = {name: find_metric(name) for name in metrics}
        scores = {
            name: (metric(shown, answers[0], reference, a), metric(shown, answers[1], reference, b))
            for name, metric in found.items()
        }
    else:
        names = [
            name for name in a if name not in _NO_SCORES and _is_number(a[name]) and _is_number(b.get(name))
        ]
        scores = {name: (float(a[name]), float(b[name])) for name in names}
    difference = 1 - _matcher(*map(pieces, answers)).ratio()
    return Pair(str(a["id"]), a["messages"], answers, reference, scores, difference)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def score(pairs: Sequence[Pair]) -> dict[str, Score]:
    """The metrics that all pairs have."""
    names = [name for name in pairs[0].scores if all(name in pair.scores for pair in pairs)]
    found = {}
    for name in names:
        values = [pair.scores[name] for pair in pairs]
        wins = sum(a > b for a, b in values), sum(b > a for a, b in values)
        means = statistics.fmean(a for a, _ in values), statistics.fmean(b for _, b in values)
        found[name] = Score(means, wins, len(values) - sum(wins))
    return found


# --- what differs -------------------------------------------------------------------------------------------


def pieces(text: str) -> list[str]:
    """Words, spaces and single signs; of Chinese, Japanese and Korean single characters."""
    return _PIECES.findall(text)


def _matcher(given: list[str], other: list[str]) -> difflib.SequenceMatcher[str]:
    return difflib.SequenceMatcher(None, given, other, autojunk=max(len(given), len(other)) > _LONG)


Segments = list[tuple[str, bool]]
"""Parts of a text, and whether each is in this text alone."""


def marked(a: str, b: str) -> tuple[Segments, Segments]:
    """Both texts in parts that are in both and parts that are in one alone."""
    given, other = pieces(a), pieces(b)
    found: tuple[Segments, Segments] = [], []
    for kind, start, end, other_start, other_end in _matcher(given, other).get_opcodes():
        for segments, part in ((found[0], given[start:end]), (found[1], other[other_start:other_end])):
            if part:
                segments.append(("".join(part), kind != "equal"))
    return _joined(found[0]), _joined(found[1])


def _joined(segments: Segments) -> Segments:
    """The segments, where a space between two marked ones is marked too."""
    joined: Segments = []
    for number, (text, is_marked) in enumerate(segments):
        beside = segments[number - 1 : number] + segments[number + 1 : number + 2]
        if not is_marked and text.isspace() and len(beside) == 2 and all(mark for _, mark in beside):
            is_marked = True
        if joined and joined[-1][1] == is_marked:
            joined[-1] = (joined[-1][0] + text, is_marked)
        else:
            joined.append((text, is_marked))
    return joined
