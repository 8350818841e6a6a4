r"""An answer and its reference -> 1 if it is right, else 0.

exact      the same text, without outer spaces             contains   the reference is part of the answer
numeric    the same last number: "so it is 1,200." "1200"  boxed      the same content of the last \boxed{...}
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?|-?\.\d+")
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")


def exact(answer: str, reference: str) -> float:
    """1 for the same text."""
    return float(answer.strip() == reference.strip())


def contains(answer: str, reference: str) -> float:
    """1 if the reference, which is not empty, is part of the answer."""
    return float(bool(reference.strip()) and reference.strip() in answer)


def numeric(answer: str, reference: str) -> float:
    """1 if the last numbers are equal."""
    given, right = last_number(answer), last_number(reference)
    return float(given is not None and given == right)


def last_number(text: str) -> Fraction | None:
    """The last number of a text, after the last `####` if there is one, as in GSM8K; None without one."""
    found = _NUMBER.findall(text.rpartition("####")[2])
    if not found:
        return None
    above, _, below = found[-1].replace(",", "").replace(" ", "").partition("/")
    return Fraction(above) / Fraction(below) if below and int(below) else Fraction(above)


def of_boxed(answer: str, reference: str) -> float:
    r"""1 if the answer has the last \boxed{...} of the reference, or the reference itself, in its own."""
    given = boxed(answer)
    right = boxed(reference) or reference
    return float(given is not None and _plain_math(given) == _plain_math(right))


def boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...} of a text; None without one."""
    starts = list(_BOXED.finditer(text))
    if not starts:
        return None
    depth, start = 1, starts[-1].end()
    for number in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[number], 0)
        if depth == 0:
            return text[start:number]
    return None


def _plain_math(text: str) -> str:
    """A formula without what does not change its value."""
    for name in ("\\left", "\\right", "\\!", "\\,", "\\;", "\\$", "$", " ", "\\%", "%"):
        text = text.replace(name, "")
    text = text.replace("dfrac", "frac").replace("tfrac", "frac").rstrip(".")
    text = re.sub(r"\\text\{(.*?)\}", r"\1", text)
    number = text.replace(",", "")
    try:
        return str(Fraction(number))
    except (ValueError, ZeroDivisionError):
        return text


BY_NAME: dict[str, Callable[[str, str], float]] = {
    "exact": exact,
    "contains": contains,
    "numeric": numeric,
    "boxed": of_boxed,
}
