"""Token ids as text, with the tokens of images, which have ids below zero.

1 3148 -200 -200 -200 13   ->   "<s>USER: <image*3>\\n"
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of `ids` with special tokens; `<image>` or `<image*576>` for one or many tokens of images."""
    pieces = []
    for is_image, run in groupby(ids, key=lambda i: i < 0):
        numbers = [int(i) for i in run]
        if not is_image:
            pieces.append(tokenizer.decode(numbers, clean_up_tokenization_spaces=False))
        else:
            pieces.append("<image>" if len(numbers) == 1 else f"<image*{len(numbers)}>")
    return "".join(pieces)
