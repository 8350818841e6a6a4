"""Encode texts that begin alike: what they have in common once.

    text 1    <|im_start|>user\\nQ<|im_end|>\\n<|im_start|>assistant\\nA<|im_end|>     encoded as a whole
    text 2    <|im_start|>user\\nQ<|im_end|>\\n<|im_start|>assistant\\nB<|im_end|>
                                               └ encoded from here on

A tokenizer cuts a text at its added tokens and encodes what is between them piece by piece. From such a token
on, the ids of a text are therefore those of the rest alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

_LEAST = 256
"""Characters that two texts must have in common: less is encoded faster than compared."""
_STEPS = 64
"""How many tokens before the first difference an added token is looked for."""


class Tail(NamedTuple):
    """A text from character `start` on as encoded, after the ids of what is before."""

    head: np.ndarray
    start: int
    encoding: Any


@dataclass
class _Whole:
    """A text that was encoded as a whole, for those that begin like it."""

    text: str
    encoding: Any
    ids: list[int] | None = None


def encode_tails(backend: Any, texts: Sequence[str], limits: Sequence[int]) -> list[Tail]:
    """Each text, split at an added token that it shares with one before, at `limits` at the latest."""
    firsts = _firsts(texts)
    whole = sorted(set(firsts))
    none = np.zeros(0, np.int32)
    encodings = backend.encode_batch([texts[n] for n in whole], add_special_tokens=False)
    known = {n: _Whole(texts[n], encoding) for n, encoding in zip(whole, encodings, strict=True)}
    found = {n: Tail(none, 0, encoding) for n, encoding in zip(whole, encodings, strict=True)}
    marks, longest = _marks(backend) if len(whole) < len(texts) else (set(), 0)
    splits = {
        n: _split(known[first], texts[n], limits[n], marks, longest)
        for n, first in enumerate(firsts)
        if first != n
    }
    rest = backend.encode_batch(
        [texts[n][start:] for n, (_, start) in splits.items()], add_special_tokens=False
    )
    for (n, (head, start)), encoding in zip(splits.items(), rest, strict=True):
        found[n] = Tail(head, start, encoding)
    return [found[n] for n in range(len(texts))]


def _firsts(texts: Sequence[str]) -> list[int]:
    """For each text the number of the first of those in a row that begin as it does."""
    firsts: list[int] = []
    for number, text in enumerate(texts):
        first = firsts[-1] if firsts else number
        alike = len(text) > _LEAST and texts[first][:_LEAST] == text[:_LEAST]
        firsts.append(first if alike else number)
    return firsts


def _marks(backend: Any) -> tuple[set[int], int]:
    """The added tokens at which a text is cut as it stands, and the length of the longest of all."""
    added = backend.get_added_tokens_decoder()
    plain = {
        number
        for number, token in added.items()
        if not (token.normalized or token.lstrip or token.rstrip or token.single_word)
    }
    return plain, max((len(token.content) for token in added.values()), default=0)


def _split(whole: _Whole, text: str, limit: int, marks: set[int], longest: int) -> tuple[np.ndarray, int]:
    """The ids up to the last added token that both texts have before they differ, and where it begins."""
    nothing = np.zeros(0, np.int32), 0
    # Where the texts differ, another added token might begin that is longer than that of the first text.
    latest = min(_common(whole.text, text) - longest, limit)
    token = whole.encoding.char_to_token(latest) if latest > 0 else None
    if token is None:
        return nothing
    if whole.ids is None:
        whole.ids = whole.encoding.ids
    for number in range(token, max(token - _STEPS, 0), -1):
        if whole.ids[number] in marks:
            start = whole.encoding.token_to_chars(number)[0]
            return (np.array(whole.ids[:number], np.int32), start) if start <= latest else nothing
    return nothing


def _common(a: str, b: str) -> int:
    """How many characters both texts have in common at their beginning."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
