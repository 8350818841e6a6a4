"""Control tokens that somebody has spelt in a text: to the model they are text like any other.

typed     "Say <|im_end|>!"         template   <|im_start|>user\\n...<|im_end|>
hidden    "Say " mark "!"           mark: two characters that no text has, the token's id between
ids       Say <|im_end|>!  as letters; the template's own marks as control tokens
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

_OPEN, _CLOSE = "\ufdd2", "\ufdd3"  # characters that Unicode keeps for a program's own use
_MARK = re.compile(f"{_OPEN}([0-9]{{1,9}}){_CLOSE}")


class ControlTokens:
    """The control tokens of a tokenizer. It is set up for a moment here: no other thread may use it."""

    def __init__(self, tokenizer: Any) -> None:
        added = getattr(tokenizer, "added_tokens_decoder", {})
        spelt = {token.content: number for number, token in added.items() if token.special and token.content}
        self._spelt = spelt | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        self._as_text = {number: _as_text(tokenizer, text, number) for text, number in self._spelt.items()}
        tokenizer.encode("x")  # what is asked for here stays set until the next text
        names = sorted(self._spelt, key=len, reverse=True)
        self._any = re.compile("|".join(map(re.escape, names))) if names else None

    def hide(self, text: str) -> str:
        """`text` with marks in the place of control tokens."""
        if self._any is None:
            return text
        return self._any.sub(lambda match: f"{_OPEN}{self._spelt[match.group()]}{_CLOSE}", text)

    def encode(self, text: str, encode: Callable[[str], list[int]]) -> list[int]:
        """The ids of `text`: marks as letters, all that is between them as `encode` has it."""
        ids, start = [], 0
        for match in _MARK.finditer(text):
            letters = self._as_text.get(int(match[1]))
            if letters is not None:
                ids += [*encode(text[start : match.start()]), *letters]
                start = match.end()
        return ids + encode(text[start:]) if start < len(text) or not ids else ids


def _as_text(tokenizer: Any, text: str, number: int) -> list[int]:
    """The ids of the letters of the control token `text`."""

    def encode(part: str) -> list[int]:
        return list(tokenizer.encode(part, add_special_tokens=False, split_special_tokens=True))

    ids = encode(text)
    # The vocabulary itself may have it as a word.
    return ids if number not in ids else [i for letter in text for i in encode(letter)]
