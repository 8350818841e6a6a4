"""Yes or no: how each benchmark reads an answer, and what it counts.

MME              acc and acc+ of 14 tasks, summed over perception and cognition
HallusionBench   accuracy of questions, figures and pairs of questions
POPE             accuracy, precision, recall, F1 and the ratio of yes

"Unclear" is an answer with neither; MME and HallusionBench count it as wrong, POPE as yes.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

YES, NO = "yes", "no"

PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def read_prefix(answer: str) -> str | None:
    """MME's rule: yes or no within the first four letters; None if neither is there."""
    start = answer.strip().lower()[:4]
    return YES if YES in start else NO if NO in start else None


def read_words(answer: str) -> str | None:
    """Yes or no if exactly one of them is a word of `answer`, else None."""
    found = {YES, NO} & set(re.findall(r"[a-z]+", answer.lower()))
    return found.pop() if len(found) == 1 else None


def read_first_sentence(answer: str) -> str:
    """POPE's rule: no if the first sentence has "no" or "not" as a word, else yes."""
    words = answer.partition(".")[0].replace(",", "").split()
    return NO if {"No", "no", "not"} & set(words) else YES


def read_label(value: object) -> str | None:
    """The right answer in a row as yes or no: Yes, "no", 1, "0", True; None for anything else."""
    text = str(value).strip().lower().rstrip(".")
    return {"yes": YES, "1": YES, "true": YES, "no": NO, "0": NO, "false": NO}.get(text)


def mme_scores(rows: Iterable[tuple[str, Hashable, bool]]) -> dict[str, dict[str, float]]:
    """Task -> `acc`, `acc+` (all questions of an image are right) and their sum `score`, in percent.

    `rows` are (task, image, is right). Tasks are sorted as in MME's paper; others follow.
    """
    tasks: dict[str, dict[Hashable, list[bool]]] = {}
    for task, image, is_right in rows:
        tasks.setdefault(task, {}).setdefault(image, []).append(is_right)
    known = [*PERCEPTION, *COGNITION]
    found = {}
    for task in sorted(tasks, key=lambda name: known.index(name) if name in known else len(known)):
        images = list(tasks[task].values())
        hits = [hit for image in images for hit in image]
        acc = 100 * sum(hits) / len(hits)
        plus = 100 * sum(map(all, images)) / len(images)
        found[task] = {"acc": acc, "acc+": plus, "score": acc + plus}
    return found


def mme_totals(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The sums of the scores of the perception and of the cognition tasks: at most 2000 and 800."""
    sides = {"perception": PERCEPTION, "cognition": COGNITION}
    return {
        side: sum(scores[task]["score"] for task in tasks if task in scores)
        for side, tasks in sides.items()
        if scores.keys() & set(tasks)
    }


@dataclass(frozen=True)
class Hallusion:
    """A question of HallusionBench: its ids, and whether its answer was right."""

    category: str
    subcategory: str
    set_id: str
    figure_id: str
    question_id: str
    is_right: bool


def hallusion_scores(rows: Sequence[Hallusion]) -> dict[str, float]:
    """Fractions: `aAcc` of questions, `fAcc` of figures and `qAcc` of question pairs that are all right.

    A figure is all questions about one image, a pair the same question about all images of a set. Figure 0 of
    the category VS is a question without an image: it is no figure.
    """
    figures: dict[Hashable, bool] = {}
    pairs: dict[Hashable, bool] = {}
    for row in rows:
        start = (row.category, row.subcategory, row.set_id)
        groups = [(pairs, row.question_id)]
        if not (row.category == "VS" and row.figure_id == "0"):
            groups.append((figures, row.figure_id))
        for group, name in groups:
            key = (*start, name)
            group[key] = group.get(key, True) and row.is_right
    found = {"aAcc": [row.is_right for row in rows], "fAcc": figures.values(), "qAcc": pairs.values()}
    return {name: sum(hits) / len(hits) for name, hits in found.items() if hits}


def binary_scores(predicted: Sequence[str | None], right: Sequence[str]) -> dict[str, float]:
    """Accuracy, precision, recall and F1 of "yes", and the ratio of "yes" among the answers.

    None, an unclear answer, is wrong and not yes. A measure whose denominator is zero is 0.
    """
    pairs = list(zip(predicted, right, strict=True))
    said, true = predicted.count(YES), right.count(YES)
    both = pairs.count((YES, YES))
    precision, recall = both / said if said else 0.0, both / true if true else 0.0
    return {
        "accuracy": sum(p == r for p, r in pairs) / len(pairs),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if both else 0.0,
        "yes_ratio": said / len(pairs),
    }
