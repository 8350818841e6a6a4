"""Multiple choice with circular evaluation, as MMBench defines it.

index      3                  1000003            2000003
options    A cat  B dog       A dog  B cat       ...           the same question, its options rotated
answer     A                  B
predicted  A                  A                                a question is right if all its rotations are
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

CYCLE = 1_000_000
"""Rows whose indices differ by a multiple of this are rotations of one question."""

ABBREVIATIONS = {
    "coarse_perception": "CP",
    "finegrained_perception (instance-level)": "FP-S",
    "finegrained_perception (cross-instance)": "FP-C",
    "logic_reasoning": "LR",
    "relation_reasoning": "RR",
    "attribute_reasoning": "AR",
    "sketch_reasoning": "Sketch Reasoning",
    "scenery_building": "Scenery & Building",
    "food_clothes": "Food & Clothes",
    "historical_figure": "Historical Figure",
    "traditional_show": "Traditional Show",
    "calligraphy_painting": "Calligraphy Painting",
    "cultural_relic": "Cultural Relic",
}
"""The names of MMBench's level-2 categories and of CCBench's categories in tables."""

_FIRST = re.compile(r"[\s(\[（【*\"']*([A-Z])(?![A-Za-z])")
_ALONE = re.compile(r"(?<![A-Za-z'’])([A-Z])(?![A-Za-z'’])")
# "A dog", "I see": words, not letters of options.
_WORD = re.compile(r"[AI] (?!(?:or|and|is|because)\b)[a-z]")


def find_choice(answer: str, options: Mapping[str, str]) -> str:
    """The letter of `options` that `answer` names, or "" if it names none, or several within a sentence.

    "B", "b.", "(B)", "B. a dog" and "B because ..." name B, and so do "a dog." if that is option B, and "The
    answer is B".
    """
    text = answer.strip()
    single = text.strip("().").upper()
    if single in options:
        return single
    match = _FIRST.match(text)
    if match and match[1] in options and not _is_word(text, match.start(1), options):
        return match[1]
    written = [letter for letter, option in options.items() if _plain(option) == _plain(text)]
    if len(written) == 1:
        return written[0]
    found = [match for match in _ALONE.finditer(text) if match[1] in options]
    alone = {match[1] for match in found if not _is_word(text, match.start(1), options)}
    return alone.pop() if len(alone) == 1 else ""


def _is_word(text: str, at: int, options: Mapping[str, str]) -> bool:
    """Whether the letter at `at` is a word of a sentence, not followed by the text of its option."""
    letter = text[at]
    return bool(_WORD.match(text, at)) and not text.startswith(f"{letter} {options[letter]}", at)


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".。")


def circular_hits(rows: Iterable[tuple[int, bool]]) -> dict[int, bool]:
    """Question -> whether all its rotations are right, from (index, is right) of each row."""
    hits: dict[int, bool] = {}
    for index, is_right in rows:
        question = index % CYCLE
        hits[question] = hits.get(question, True) and is_right
    return hits


def accuracy_by(hits: Sequence[bool], names: Sequence[Any]) -> dict[str, float]:
    """Name -> accuracy of the questions of that name, sorted by name; questions without one are left out."""
    groups: dict[str, list[bool]] = {}
    for hit, name in zip(hits, names, strict=True):
        if name not in (None, ""):
            groups.setdefault(str(name), []).append(hit)
    return {name: sum(group) / len(group) for name, group in sorted(groups.items())}
