"""Token ids as text, with the many tokens of images in short.

1 3148 -200 -200 -200 13              ->   "<s>USER: <image*3>\\n"       ids below zero are images of LLaVA
1 3148 32000 32000 32000 13           ->   "<s>USER: <image*3>\\n"       and those behind the vocabulary
92544 92546 92546 ... 92546 92545     ->   "<img><IMG_CONTEXT*256></img>"
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

_MANY = 8  # times the same special token


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of `ids` with special tokens; `<image>` or `<image*576>` for one or many tokens of images."""
    # In dialogues each row of an image has an id of its own.
    runs = [(number, sum(1 for _ in run)) for number, run in groupby(max(int(i), -1) for i in ids)]
    is_long = any(count >= _MANY for _, count in runs)
    added = getattr(tokenizer, "added_tokens_decoder", {}) if is_long else {}
    pieces: list[str] = []
    words: list[int] = []
    for number, count in runs:
        token = added.get(number) if count >= _MANY else None
        if number < 0 or (count >= _MANY and _is_behind(tokenizer, number)):
            token = "<image>"
        if token is None:
            words += [number] * count
            continue
        pieces += [_text(tokenizer, words), _times(str(token), count)]
        words = []
    return "".join([*pieces, _text(tokenizer, words)])


def _is_behind(tokenizer: Any, number: int) -> bool:
    """Whether `number` is no token of `tokenizer`, whose ids may have gaps."""
    return number >= len(tokenizer) and not _text(tokenizer, [number])


def _text(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False) if ids else ""


def _times(token: str, count: int) -> str:
    if count == 1:
        return token
    name, end = (token[:-1], ">") if token.endswith(">") else (token, "")
    return f"{name}*{count}{end}"
