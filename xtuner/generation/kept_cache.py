"""Keys and values of what the model has read, kept from one answer to the next.

    kept      <s> SYSTEM Q1 A1 Q2 A2'        A2' was undone, or closed in other words
    prompt    <s> SYSTEM Q1 A1 Q3
    reused    <s> SYSTEM Q1 A1               the common beginning; the rest is cut off

The last token of a prompt is always read again, since the answer begins with what it gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from operator import eq
from typing import Any


@dataclass
class KeptCache:
    """Keys and values `values` of the tokens `ids`."""

    ids: list[int] = field(default_factory=list)
    values: Any = None

    def take(self, prompt: Sequence[int], same_until: int | None = None) -> int:
        """How many tokens at the start of `prompt` are kept; everything after them is cut off.

        `same_until`: a prompt that grows beyond so many tokens changes the keys before it.
        """
        shared = sum(1 for _ in takewhile(bool, map(eq, self.ids, prompt)))
        count = min(shared, len(prompt) - 1)
        if same_until is not None and count <= same_until < len(prompt):
            count = 0
        if self.values is None or count <= 0 or not _crop(self.values, len(self.ids) - count):
            self.forget()
            return 0
        self.ids = self.ids[:count]
        return count

    def forget(self) -> None:
        """Keep nothing."""
        self.ids, self.values = [], None


def _crop(values: Any, surplus: int) -> bool:
    """Whether the last `surplus` tokens could be taken out of `values`."""
    if surplus == 0:
        return True
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    from xtuner.generation.growing_cache import GrowingLayer

    plain = (DynamicLayer, GrowingLayer, DynamicSlidingWindowLayer)
    layers = getattr(values, "layers", None)
    # States that sum up all tokens before them cannot go back.
    if not layers or any(type(layer) not in plain for layer in layers):
        return False
    windows = [layer for layer in layers if type(layer) is DynamicSlidingWindowLayer]
    # A window that has moved on has lost the tokens that would come back into it.
    if any(layer.get_seq_length() >= layer.sliding_window for layer in windows):
        return False
    values.crop(-surplus)
    return True
