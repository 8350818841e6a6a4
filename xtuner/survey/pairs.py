"""Compared answers side by side, their lengths, and their probable mistakes.

prompt      [user]Who?[assistant]
chosen      A small model.       9 tokens      rejected    No.      3 tokens
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xtuner.dataset.preference_dataset import UnpairedDataset
from xtuner.dataset.preferences.samples import MIXED, SWAPPED
from xtuner.survey.counts import Lengths, describe_lengths
from xtuner.survey.faults import LOOKED_AT, Finding
from xtuner.survey.views import Segment, evenly_chosen, segments_of

ENOUGH = 20
"""With fewer pairs, no statistics are reported."""
BIASED = 0.75
"""If one side is longer in a larger fraction of the pairs, the model may learn only the length."""
ONE_SIDED = 0.9
"""The fraction of answers of one side with the same first token that makes it a sign of that side."""

PAIR = ("chosen", "rejected")
LABELS = ("good_answer", "bad_answer")


@dataclass(frozen=True)
class AnswerView:
    """One answer to a prompt; `name` is in PAIR or LABELS."""

    name: str
    num_tokens: int
    segments: list[Segment]


@dataclass(frozen=True)
class ComparedView:
    """A prompt with the answers that are compared: two of a pair, or one with a label."""

    place: str
    prompt: list[Segment]
    answers: list[AnswerView]


@dataclass(frozen=True)
class ComparedSurvey:
    """The survey of a data set of compared answers."""

    views: list[ComparedView]
    lengths: dict[str, Lengths]
    findings: list[Finding]


def survey_compared(
    dataset: Any, tokenizer: Any, max_length: int | None, count: int
) -> ComparedSurvey | None:
    """The survey of a data set of compared answers, of which `count` are shown; None for any other."""
    if "answer_scores" not in getattr(dataset.store, "about", {}).get("columns", {}):
        return None
    units, names = _units(dataset)
    chosen = evenly_chosen(len(units), LOOKED_AT)
    looked_at = [_read(dataset.store, unit) for unit in units[chosen].tolist()]
    lengths = _lengths_by_name(looked_at, names[chosen])
    findings = _findings_of_rows(dataset.stats)
    if not isinstance(dataset, UnpairedDataset):
        findings += find_in_pairs(looked_at, tokenizer, max_length)
    shown = evenly_chosen(len(units), count)
    return ComparedSurvey(
        [
            _view(dataset, tokenizer, *pair)
            for pair in zip(units[shown].tolist(), names[shown].tolist(), strict=True)
        ],
        {name: describe_lengths(np.array(found)) for name, found in lengths.items()},
        findings,
    )


@dataclass(frozen=True)
class _Read:
    """Answers to one prompt: the token ids of all, and where each answer begins."""

    ids: list[np.ndarray]
    trained: list[np.ndarray]
    start: int

    def lengths(self) -> list[int]:
        return [len(ids) - self.start for ids in self.ids]


def _units(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """The samples of each pair or labelled answer, in the order of rows, and the names of their answers."""
    if isinstance(dataset, UnpairedDataset):
        step = dataset.samples_per_answer
        units = dataset.plan.order[::step, None]
        good = np.concatenate([dataset[i]["desirable"] for i in range(len(dataset))])
        names = np.where(good, *LABELS)[:, None]
    else:
        units = dataset.plan.order.reshape(-1, 2)
        names = np.tile(np.array(PAIR), (len(units), 1))
    order = np.argsort(units.min(1), kind="stable")
    return units[order], names[order]


def _read(store: Any, unit: Sequence[int]) -> _Read:
    samples = [store.sample(sample) for sample in unit]
    ids, trained = [sample[0] for sample in samples], [sample[1] for sample in samples]
    starts = [int(flags.argmax()) for flags in trained]
    if len(ids) == 2:
        shortest = min(map(len, ids))
        differs = np.flatnonzero(ids[0][:shortest] != ids[1][:shortest])
        starts.append(int(differs[0]) if len(differs) else shortest)
    return _Read(ids, trained, min(starts))


def _lengths_by_name(looked_at: Sequence[_Read], names: np.ndarray) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for read, own in zip(looked_at, names.tolist(), strict=True):
        for name, length in zip(own, read.lengths(), strict=True):
            found.setdefault(name, []).append(length)
    return {name: found[name] for name in (*PAIR, *LABELS) if name in found}


def _view(dataset: Any, tokenizer: Any, unit: Sequence[int], names: Sequence[str]) -> ComparedView:
    read = _read(dataset.store, unit)
    answers = [
        AnswerView(
            name, len(ids) - read.start, segments_of(tokenizer, ids[read.start :], trained[read.start :])
        )
        for name, ids, trained in zip(names, read.ids, read.trained, strict=True)
    ]
    prompt = segments_of(tokenizer, read.ids[0][: read.start], read.trained[0][: read.start])
    row = int(dataset.store.column("answer_rows")[dataset.store.rows[unit[0]]])
    return ComparedView(dataset.place(row), prompt, answers)


# --- probable mistakes -----------------------------------------------------------------------------------


def _findings_of_rows(stats: Mapping[str, Any]) -> list[Finding]:
    """The findings noted while the rows were read."""
    return [
        Finding(kind, {"count": stats[f"num_{kind}"], "places": stats[kind]})
        for kind in (SWAPPED, MIXED)
        if stats.get(kind)
    ]


def find_in_pairs(pairs: Sequence[_Read], tokenizer: Any, max_length: int | None) -> list[Finding]:
    """Findings about the form of the answers, which a model could learn instead of their content."""
    findings: list[Finding] = []
    values: dict[str, Any]
    cut = [sum(len(pair.ids[side]) == max_length for pair in pairs) for side in (0, 1)]
    if any(cut):
        values = {"chosen": cut[0], "rejected": cut[1], "total": len(pairs), "max_length": max_length}
        findings.append(Finding("answers_cut", values))
    if len(pairs) < ENOUGH:
        return findings
    lengths = np.array([pair.lengths() for pair in pairs])
    for side, name in enumerate(PAIR):
        share = float((lengths[:, side] > lengths[:, 1 - side]).mean())
        if share > BIASED:
            medians = np.median(lengths, axis=0).tolist()
            values = {"side": name, "share": share, "own": medians[side], "other": medians[1 - side]}
            findings.append(Finding("length_bias", values))
    return [*findings, *_find_one_sided(pairs, tokenizer)]


def _find_one_sided(pairs: Sequence[_Read], tokenizer: Any) -> list[Finding]:
    """A first token that nearly all answers of one side have, and nearly none of the other."""
    for side, name in enumerate(PAIR):
        own, other = (
            np.array([pair.ids[s][pair.start] for pair in pairs if len(pair.ids[s]) > pair.start])
            for s in (side, 1 - side)
        )
        if not len(own):
            continue
        tokens, counts = np.unique(own, return_counts=True)
        token = int(tokens[counts.argmax()])
        shares = float((own == token).mean()), float((other == token).mean()) if len(other) else 0.0
        if shares[0] >= ONE_SIDED and shares[1] <= 1 - ONE_SIDED:
            values = {"side": name, "text": tokenizer.decode([token]), "share": shares[0], "other": shares[1]}
            return [Finding("one_sided", values)]
    return []
