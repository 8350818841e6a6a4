r"""An answer and its reference -> a number; larger is better.

exact      the same text, without outer spaces             contains   the reference is part of the answer
numeric    the same last number: "so it is 1,200." "1200"  boxed      the same content of the last \boxed{...}
letter     the same letter of a choice: "B." "(B) a dog"
bleu       4-grams, smoothed, 0 to 100                     rouge1, rouge2, rougeL   F-measure, 0 to 1

bleu and rouge compare words, and characters of Chinese, Japanese and Korean. `module:function` or
`file.py:function` is a metric of the user's: `(question, answer, row) -> float`.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xtuner.errors import ConfigError, did_you_mean
from xtuner.evaluation.vision.choices import find_choice
from xtuner.language import translate
from xtuner.rewards.compare import BY_NAME, boxed
from xtuner.rewards.functions import find_function

Metric = Callable[[str, str, str, Mapping[str, Any]], float]
"""Question, answer, reference, row -> a number."""

CHARACTERS = "぀-ヿ㐀-鿿豈-﫿가-힣"
"""The ranges of characters of languages without spaces, for a regular expression."""
_WORDS = re.compile(rf"[{CHARACTERS}]|[^\W_{CHARACTERS}]+")


def _letter(answer: str, reference: str) -> float:
    letters = dict.fromkeys(string.ascii_uppercase, "")
    right = find_choice(reference, letters)
    return float(bool(right) and find_choice(answer, letters) == right)


# --- words ------------------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """Words in lower case, and single characters of languages without spaces."""
    return _WORDS.findall(text.lower())


def _grams(found: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(found[n : n + size]) for n in range(len(found) - size + 1))


def _bleu(answer: str, reference: str) -> float:
    """BLEU of one answer; counts of 2-grams and longer ones are raised by one."""
    given, right = words(answer), words(reference)
    if not given or not right:
        return 0.0
    total = 0.0
    for size in range(1, 5):
        found, wanted = _grams(given, size), _grams(right, size)
        same, count = sum((found & wanted).values()), sum(found.values())
        if size > 1:
            same, count = same + 1, count + 1
        if not same:
            return 0.0
        total += math.log(same / count) / 4
    return 100 * math.exp(total + min(0.0, 1 - len(right) / len(given)))


def _rouge(size: int) -> Callable[[str, str], float]:
    def score(answer: str, reference: str) -> float:
        found, wanted = _grams(words(answer), size), _grams(words(reference), size)
        return _f_measure(sum((found & wanted).values()), sum(found.values()), sum(wanted.values()))

    return score


def _rouge_l(answer: str, reference: str) -> float:
    given, right = words(answer), words(reference)
    return _f_measure(_common(given, right), len(given), len(right))


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    line = [0] * (len(b) + 1)
    for one in a:
        before = 0
        for number, other in enumerate(b):
            old = line[number + 1]
            line[number + 1] = before + 1 if one == other else max(old, line[number])
            before = old
    return line[-1]


def _f_measure(same: int, given: int, wanted: int) -> float:
    return 2 * same / (given + wanted) if same else 0.0


_METRICS: dict[str, Callable[[str, str], float]] = {
    **BY_NAME,
    "letter": _letter,
    "bleu": _bleu,
    "rouge1": _rouge(1),
    "rouge2": _rouge(2),
    "rougeL": _rouge_l,
}
METRICS = tuple(_METRICS)


def find_metric(name: str) -> Metric:
    """The metric of that name, or the user's function `module:function` or `file.py:function`."""
    if name in _METRICS:
        plain = _METRICS[name]
        return lambda question, answer, reference, row: plain(answer, reference)
    if ":" not in name:
        what = "--metrics {name}: there is no such metric.{hint} Metrics: {names}, or FILE.py:FUNCTION"
        hint = did_you_mean(name, METRICS)
        raise ConfigError(translate(what, name=name, hint=hint, names=", ".join(METRICS)))
    own = find_function(name, "--metrics")
    return lambda question, answer, reference, row: float(own(question, answer, row))


def default_metrics(references: Sequence[str]) -> list[str]:
    """The metrics that fit the references: by their marks, by letters, or by their length."""
    if all("####" in reference for reference in references):
        return ["numeric"]
    if all(boxed(reference) is not None for reference in references):
        return ["boxed"]
    if all(re.fullmatch(r"\(?[A-Z]\)?\.?", reference.strip()) for reference in references):
        return ["letter"]
    if all(re.fullmatch(r"[-+]?[\d.,/ ]+%?", reference.strip()) for reference in references):
        return ["numeric"]
    if sorted(len(words(reference)) for reference in references)[len(references) // 2] <= 5:
        return ["exact", "contains"]
    return ["bleu", "rougeL"]
