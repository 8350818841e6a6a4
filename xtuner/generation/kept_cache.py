"""KV caches that are kept from one answer to the next.

    kept      <s> SYSTEM Q1 A1 Q2 A2'        A2' was undone, or ends with other tokens
    prompt    <s> SYSTEM Q1 A1 Q3
    reused    <s> SYSTEM Q1 A1               the common prefix; the rest is cropped

The last token of a prompt is always read again, since the answer needs its logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import eq
from typing import Any

from xtuner.generation.growing_cache import crop


@dataclass(frozen=True)
class _Kept:
    """Keys and values `values` of the tokens `ids`, read with `adapter`."""

    ids: list[int]
    values: Any
    adapter: str | None


class KeptCache:
    """The KV caches of the last `most` dialogues."""

    def __init__(self, most: int = 1) -> None:
        self.most = most
        self._kept: list[_Kept] = []

    def __len__(self) -> int:
        return len(self._kept)

    def take(
        self, prompt: Sequence[int], adapter: str | None = None, same_until: int | None = None
    ) -> tuple[Any, int]:
        """A cache of the first tokens of `prompt`, and their number; (None, 0) if there is none.

        `same_until`: the keys of all tokens change when the prompt grows beyond so many tokens.
        """
        count, best = 0, None
        for kept in self._kept:
            if kept.adapter == adapter and (common := common_length(kept.ids, prompt)) > count:
                count, best = common, kept
        count = min(count, len(prompt) - 1)
        if same_until is not None and count <= same_until < len(prompt):
            count = 0
        if best is not None and self._fits(best, count) and crop(best.values, len(best.ids) - count):
            self._kept.remove(best)
            return best.values, count
        if self.most == 1:
            self.forget()
        return None, 0

    def _fits(self, kept: _Kept, count: int) -> bool:
        # A cache that is taken is used up: it must be of this dialogue, not of one with the same system text.
        return count > 0 and (self.most == 1 or 2 * count > len(kept.ids))

    def keep(self, ids: list[int], values: Any, adapter: str | None = None) -> None:
        """Keep `values` of the tokens `ids`; the oldest beyond `most` are dropped."""
        self._kept = [*self._kept, _Kept(ids, values, adapter)][-self.most :]

    def forget(self) -> None:
        """Drop all caches."""
        self._kept = []


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """The number of tokens with which both begin."""
    return sum(1 for _ in takewhile(bool, map(eq, a, b)))
