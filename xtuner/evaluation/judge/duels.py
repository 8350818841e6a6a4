"""Which answer of each pair is better, by a judge that reads them in both orders.

verdicts.jsonl   {"index": "3 ab", "verdict": "1", ...}     answer 1 is that of A
                 {"index": "3 ba", "verdict": "1", ...}     answer 1 is that of B: the orders disagree
judge.json       {"name": "qwen", "outcomes": {"3": ["9f86...", "tie", ["Both ...", ...], "disagree"]}}

An answer wins where it does in both orders; otherwise the pair is a tie: a judge that prefers a place favours
no model. Equal answers are ties that nobody is asked about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xtuner.evaluation.compare.pairs import Pair
from xtuner.evaluation.compare.votes import TIE, Summary, summary
from xtuner.evaluation.judge.judge import Item, Judge, question_of
from xtuner.evaluation.run_folder import Line, write_json
from xtuner.language import translate

_ORDERS = ("ab", "ba")


@dataclass(frozen=True)
class Verdicts:
    """What a judge said of pairs, by their id: "a", "b" or "tie", and its replies in both orders.

    `disagree`: ties whose orders disagree; `errors`: pairs without a verdict, and why; `equal`: pairs of
    equal answers.
    """

    judge: str = ""
    by_id: Mapping[str, str] = field(default_factory=dict)
    replies: Mapping[str, Sequence[str]] = field(default_factory=dict)
    disagree: int = 0
    equal: int = 0
    errors: str = ""
    num_errors: int = 0

    def summary(self) -> Summary:
        """The numbers of all verdicts."""
        return summary(self.by_id.values())

    def lines(self, names: tuple[str, str]) -> list[str]:
        """The summary in words; empty without a judge."""
        if not self.judge:
            return []
        found = self.summary()
        what = (
            "{count:,} verdicts of {judge}: {a:,} for {name_a}, {b:,} for {name_b}, {ties:,} ties; in "
            "{disagree:,} of these the two orders disagree, in {equal:,} the answers are the same"
        )
        lines = [
            translate(
                what,
                count=found.count,
                judge=self.judge,
                a=found.a,
                name_a=names[0],
                b=found.b,
                name_b=names[1],
                ties=found.ties,
                disagree=self.disagree,
                equal=self.equal,
            )
        ]
        lines += [found.rate_line(names)] if found.count else []
        if self.num_errors:
            what = "{count:,} pairs have no verdict, not counted: {errors}"
            lines.append(translate(what, count=self.num_errors, errors=self.errors))
        return lines

    def as_json(self) -> dict[str, Any]:
        """The numbers for results.json."""
        found = self.summary()
        numbers: dict[str, Any] = {"name": self.judge, "a": found.a, "b": found.b, "ties": found.ties}
        numbers |= {"disagree": self.disagree, "equal": self.equal, "without_verdict": self.num_errors}
        return numbers | ({"win_rate_b": found.rate, "interval": list(found.interval)} if found.count else {})


def judge_pairs(judge: Judge, pairs: Sequence[Pair], folder: Path) -> None:
    """Ask for the verdicts that `folder` does not have, and write what came of all to judge.json."""
    different = [pair for pair in pairs if pair.answers[0] != pair.answers[1]]
    lines = judge.judge(
        [_item(pair, order) for pair in different for order in _ORDERS], folder / "verdicts.jsonl"
    )
    outcomes = {pair.id: [pair.key, *_outcome(pair, lines)] for pair in pairs}
    write_json(folder / "judge.json", {"name": judge.name, "outcomes": outcomes})


def _item(pair: Pair, order: str) -> Item:
    first, second = pair.answers if order == "ab" else pair.answers[::-1]
    question = question_of(pair.messages)
    values = {"question": question, "reference": pair.reference, "answer_1": first, "answer_2": second}
    return Item(f"{pair.id} {order}", values)


def _outcome(pair: Pair, lines: Mapping[str, Line]) -> tuple[str | None, list[str], str]:
    """Who wins a pair (None without a verdict), the replies, and what is to be said of it."""
    if pair.answers[0] == pair.answers[1]:
        return TIE, [], "equal"
    own = {order: lines[f"{pair.id} {order}"] for order in _ORDERS}
    replies = [line["reply"] for line in own.values()]
    if errors := [line["error"] for line in own.values() if "error" in line]:
        return None, replies, f"{pair.id}: {errors[0]}"
    winners = {{"1": order[0], "2": order[1], TIE: TIE}[line["verdict"]] for order, line in own.items()}
    if len(winners) == 1:
        return winners.pop(), replies, ""
    return TIE, replies, "disagree"


def read_verdicts(folder: Path, pairs: Sequence[Pair]) -> Verdicts:
    """The verdicts that judge.json has on the answers of `pairs`; none without this file."""
    file = folder / "judge.json"
    if not file.exists():
        return Verdicts()
    known = json.loads(file.read_text(encoding="utf-8"))
    own = {pair.id: known["outcomes"].get(pair.id) for pair in pairs}
    found = {pair.id: own[pair.id][1:] for pair in pairs if own[pair.id] and own[pair.id][0] == pair.key}
    if not found:
        return Verdicts()
    errors = [about for winner, _, about in found.values() if winner is None]
    return Verdicts(
        known["name"],
        {name: winner for name, (winner, _, _) in found.items() if winner is not None},
        {name: replies for name, (_, replies, _) in found.items()},
        disagree=sum(about == "disagree" for _, _, about in found.values()),
        equal=sum(about == "equal" for _, _, about in found.values()),
        errors="; ".join(errors[:3]) + (", ..." if len(errors) > 3 else ""),
        num_errors=len(errors),
    )
