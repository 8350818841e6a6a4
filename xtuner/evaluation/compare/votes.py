"""Votes on pairs of answers.

votes.jsonl    {"id": "3", "answers": "9f86d081884c7d65", "vote": "b", "is_blind": true, "time": "2026-..."}

A line is on the disk before the page shows the vote. Of several votes on a pair the last one counts; votes on
other answers to the same row do not.
"""

from __future__ import annotations

import datetime
import hashlib
import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from xtuner import json_lines
from xtuner.evaluation.compare.pairs import Pair
from xtuner.language import translate

A, B, TIE = "a", "b", "tie"
Z = 1.959963984540054
"""Standard deviations that hold 95 % of a normal distribution."""


@dataclass(frozen=True)
class Summary:
    """Numbers of votes; the win rate of B, in which a tie is half a win, and its interval of 95 %."""

    a: int
    b: int
    ties: int

    @property
    def count(self) -> int:
        """The number of votes."""
        return self.a + self.b + self.ties

    @property
    def rate(self) -> float:
        """The win rate of B."""
        return (self.b + self.ties / 2) / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """The interval of the win rate."""
        return wilson(self.rate, self.count)

    def lines(self, names: tuple[str, str]) -> list[str]:
        """The summary in words; empty without votes."""
        if not self.count:
            return []
        what = "{count:,} votes: {a:,} for {name_a}, {b:,} for {name_b}, {ties:,} ties"
        first = translate(
            what, count=self.count, a=self.a, name_a=names[0], b=self.b, name_b=names[1], ties=self.ties
        )
        return [first, self.rate_line(names)]

    def rate_line(self, names: tuple[str, str]) -> str:
        """The win rate in words."""
        low, high = self.interval
        what = "win rate of {name}: {rate:.3f} (95 % interval {low:.3f} to {high:.3f}; a tie is half a win)"
        return translate(what, name=names[1], rate=self.rate, low=low, high=high)


def wilson(rate: float, count: int) -> tuple[float, float]:
    """Wilson's interval of 95 % for a rate that was seen in `count` draws."""
    square = Z * Z / count
    middle = (rate + square / 2) / (1 + square)
    half = Z / (1 + square) * math.sqrt(rate * (1 - rate) / count + square / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def summary(votes: Iterable[str]) -> Summary:
    """The summary of the votes that count."""
    found = list(votes)
    return Summary(found.count(A), found.count(B), found.count(TIE))


def b_is_left(pair: Pair, seed: int) -> bool:
    """Whether a blind page shows the answer of B on the left: half of all pairs, the same every time."""
    return bool(hashlib.sha256(f"{seed}/{pair.id}/{pair.key}".encode()).digest()[0] & 1)


class Votes:
    """The votes of a file on `pairs`; may be used from several threads."""

    def __init__(self, path: Path, pairs: Sequence[Pair]) -> None:
        self.path = path
        self._keys = {pair.id: pair.key for pair in pairs}
        self._one_at_a_time = threading.Lock()
        self.by_id: dict[str, str] = {}
        self.num_pairs = len(pairs)
        self.num_others = 0
        if path.exists():
            for line in json_lines.read(path):
                if self._keys.get(line["id"]) == line["answers"]:
                    self.by_id[line["id"]] = line["vote"]
                else:
                    self.num_others += 1

    def add(self, name: str, vote: str, *, is_blind: bool) -> None:
        """Append a vote on the pair of that id; KeyError if there is none."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        key = self._keys[name]
        line = {"id": name, "answers": key, "vote": vote, "is_blind": is_blind, "time": now}
        with self._one_at_a_time, self.path.open("ab") as file:
            json_lines.append(file, [line])
            self.by_id[name] = vote

    def summary(self) -> Summary:
        """The summary of the votes that count."""
        return summary(self.by_id.values())
