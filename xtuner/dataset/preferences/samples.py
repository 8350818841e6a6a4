"""From rows to samples in the token store: a prompt with each of its answers.

    rows      {"prompt": P, "answers": [A, B, C], "scores": [2, 0, 1]}     {"prompt": Q, ...}
    samples   P A | P B | P C | Q ...
    columns   answer_rows    [0, 0, 0, 1, ...]     the row of each answer
              answer_scores  [2, 0, 1, ...]        the larger, the better
              answer_of      [0, 1, 2, ...]        itself; of a mismatched answer, the one it stands beside
              answer_counts  [9, 4, 7, ...]        its supervised tokens

`store.rows` holds the numbers of the answers, which count from 0 in the order of the rows. The numbers of
answers that became no sample are in the columns too.

A mismatched answer is one to another prompt: the KL divergence of KTO is estimated on such samples.

    P A | P B | Q C     mismatched: P C | P C | Q B     the latest answer before it to another prompt
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from xtuner.dataset.encoding.conversations import Encoded
from xtuner.dataset.encoding.pipeline import NAMED_ROWS, Encoding, MapFn, Tally, Writer, apply_map_fn
from xtuner.dataset.huggingface import write_rows
from xtuner.dataset.map_fns.preferences import SIDES
from xtuner.dataset.preferences.answers import Compared, Message, read_compared
from xtuner.dataset.reading.selection import Selection
from xtuner.errors import DataError
from xtuner.language import translate

Row = Mapping[str, Any]
Found = Row | DataError
"""The dialogue of an answer, or why there is none."""

_SCORED = ("{}-rating", "{}_rating", "{}_score", "score_{}", "rating_{}", "{}-score")
"""Fields in which data sets of pairs keep the scores of both answers."""

EQUAL = "answers that are all equal"
TIED = "answers of which none is better than another"
SWAPPED, MIXED = "swapped", "mixed"
"""Pairs whose own scores prefer the rejected answer; pairs of a text and of messages."""


@dataclass(frozen=True)
class Reading:
    """How rows become answers: compared with one another, or each with a label."""

    map_fn: MapFn | None
    loss_on: str
    is_labelled: bool = False
    with_mismatched: bool = False


class AnswerWriter(Writer, Protocol):
    """Where samples go, and columns of numbers that belong to them: a StoreWriter, say."""

    def add_column(self, name: str, numbers: np.ndarray) -> None: ...


def write_answers(
    rows: Selection, reading: Reading, settings: Encoding, end_token: int | None, writer: AnswerWriter
) -> dict[str, Any]:
    """Write a sample for each answer, and the columns; returns the counts that the store is to keep.

    With `end_token` only the last token of a sample is marked: that token, which is added, or below 0 the
    sample's own last one.
    """
    ledger = _Ledger()
    tally = _RowTally(ledger=ledger)
    marked = _Marked(writer, ledger, end_token, settings.max_length)
    answers = _AnswerRows(rows.sources, rows.taken, rows.part, reading, ledger, tally, writer.note_fault)
    about = write_rows(answers, settings, marked, tally)
    for name, column in ledger.columns().items():
        writer.add_column(name, column)
    return about


@dataclass
class _Ledger:
    """Row, score and partner of each answer, by its number, and its supervised tokens once it is encoded."""

    rows: array = field(default_factory=lambda: array("Q"))
    scores: array = field(default_factory=lambda: array("d"))
    partners: array = field(default_factory=lambda: array("Q"))
    counts: dict[int, int] = field(default_factory=dict)

    def add(self, row: int, score: float, partner: int | None = None) -> int:
        """The number of a new answer."""
        number = len(self.rows)
        self.rows.append(row)
        self.scores.append(score)
        self.partners.append(number if partner is None else partner)
        return number

    def columns(self) -> dict[str, np.ndarray]:
        """The columns of the store."""
        counts = np.zeros(len(self.rows), np.uint32)
        counts[list(self.counts)] = list(self.counts.values())
        return {
            "answer_rows": np.array(self.rows, np.uint32),
            "answer_scores": np.array(self.scores, np.float32),
            "answer_of": np.array(self.partners, np.uint32),
            "answer_counts": counts,
        }


@dataclass
class _RowTally(Tally):
    """Counts rows, of which each has several answers."""

    ledger: _Ledger = field(default_factory=_Ledger)
    latest: dict[str, int] = field(default_factory=dict)
    odd: dict[str, list[str]] = field(default_factory=lambda: {SWAPPED: [], MIXED: []})

    def about(self) -> dict[str, Any]:
        """All the counts, as a store keeps them."""
        about = super().about()
        about["stats"] |= {kind: places for kind, places in self.odd.items() if places}
        return about

    def count_odd(self, row: Row, place: str) -> None:
        """Note a pair whose own scores prefer the rejected answer, or whose answers have different forms."""
        for kind, is_odd in ((SWAPPED, _is_swapped(row)), (MIXED, _is_mixed(row))):
            if is_odd:
                self.stats[f"num_{kind}"] = self.stats.get(f"num_{kind}", 0) + 1
                if len(self.odd[kind]) < NAMED_ROWS:
                    self.odd[kind].append(place)

    def count_row(self) -> None:
        """Rows are counted where they are read."""

    def drop(self, reason: str, row: int, place: Callable[[int], str]) -> None:
        """Count the row of an answer that is left out."""
        if self._is_new(reason, row):
            super().drop(reason, row, place)

    def count_left_out(self, kind: str, row: int, place: Callable[[int], str]) -> None:
        """Count the row of an answer of which the chat template leaves out words of that kind."""
        if self._is_new(f"left out: {kind}", row):
            super().count_left_out(kind, row, place)

    def count_empty(self, row: int, place: Callable[[int], str]) -> None:
        """Count the row of an empty answer."""
        if self._is_new("empty", row):
            super().count_empty(row, place)

    def _is_new(self, kind: str, answer: int) -> bool:
        row = self.ledger.rows[answer]
        is_new = self.latest.get(kind) != row
        self.latest[kind] = row
        return is_new


@dataclass(frozen=True)
class _Marked:
    """Passes samples on to a store, and notes how many supervised tokens each has."""

    writer: Writer
    ledger: _Ledger
    end_token: int | None
    max_length: int | None

    def append(self, encoded: Encoded, row_numbers: np.ndarray, keep: np.ndarray | None = None) -> None:
        if self.end_token is not None:
            encoded = _scored_at_end(encoded, self.end_token, self.max_length)
        numbers = row_numbers[encoded.rows].tolist()
        self.ledger.counts.update(zip(numbers, encoded.trained_counts().tolist(), strict=True))
        self.writer.append(encoded, row_numbers, keep)

    def note_fault(self, message: str) -> None:
        self.writer.note_fault(message)


def _scored_at_end(encoded: Encoded, token: int, max_length: int | None) -> Encoded:
    """The samples with `token` added, unless it is below 0, and their last token marked alone.

    Where `max_length` tokens are full, the added one takes the position of the last one.
    """
    ids, offsets = encoded.ids, encoded.offsets
    if token >= 0:
        lengths = np.diff(offsets)
        ids = np.insert(ids, offsets[1:], token)
        ends = offsets[1:] + np.arange(len(lengths))
        ids = np.delete(ids, ends[lengths == max_length] - 1)
        offsets = np.concatenate([[0], np.cumsum(lengths + (lengths != max_length))])
    trained = np.zeros(len(ids), bool)
    trained[offsets[1:] - 1] = True
    return replace(encoded, ids=ids, trained=trained, offsets=offsets)


def _ignore(message: str) -> None:
    """Drop the message."""


@dataclass(frozen=True)
class _AnswerRows(Selection):
    """Dialogues, one for each answer of the rows, under the numbers of the answers."""

    reading: Reading = field(default_factory=lambda: Reading(None, "answer"))
    ledger: _Ledger = field(default_factory=_Ledger)
    tally: _RowTally = field(default_factory=_RowTally)
    note_fault: Callable[[str], None] = _ignore

    def unread(self) -> Iterator[tuple[int, Callable[[], Row]]]:
        """Number and dialogue of each answer; of a row at fault a number and its error."""
        answers = self._with_mismatched() if self.reading.with_mismatched else self._answers()
        for number, found in answers:
            yield number, functools.partial(_conversation, found)

    def place(self, number: int) -> str:
        """Where the row of an answer stands."""
        return super().place(self.ledger.rows[number])

    def _answers(self) -> Iterator[tuple[int, Found]]:
        for row, found in self._compared_rows():
            if isinstance(found, DataError):
                yield self.ledger.add(row, np.nan), found
                continue
            for side, score in enumerate(found.scores):
                yield self.ledger.add(row, score), found.dialogue(side, self.reading.loss_on)

    def _with_mismatched(self) -> Iterator[tuple[int, Found]]:
        """Each answer, then one to another prompt; the first prompt's answers get theirs at the end."""
        waiting: list[tuple[int, Compared]] = []
        latest: Compared | None = None
        other: list[Message] | None = None
        for row, found in self._compared_rows():
            if isinstance(found, DataError):
                yield self.ledger.add(row, np.nan), found
                continue
            if latest is not None and latest.prompt != found.prompt:
                other = latest.answers[-1]
            latest = found
            for side, score in enumerate(found.scores):
                number = self.ledger.add(row, score)
                yield number, found.dialogue(side, self.reading.loss_on)
                if other is None:
                    waiting.append((number, found))
                else:
                    yield self._mismatched(number, found, other)
        for number, found in waiting:
            if latest is not None and latest.prompt != found.prompt:
                yield self._mismatched(number, found, latest.answers[-1])

    def _mismatched(self, number: int, compared: Compared, answer: list[Message]) -> tuple[int, Found]:
        """The prompt of answer `number` with an answer to another."""
        row, score = self.ledger.rows[number], self.ledger.scores[number]
        dialogue = replace(compared, answers=[answer]).dialogue(0, self.reading.loss_on)
        return self.ledger.add(row, score, number), dialogue

    def _compared_rows(self) -> Iterator[tuple[int, Compared | DataError]]:
        """Row number, and the answers of the row or its fault; rows that compare nothing are counted."""
        for row, read in super().unread():
            self.tally.stats["rows"] += 1
            try:
                raw = read()
            except DataError as error:
                yield row, error
                continue
            try:
                compared = self._compared(raw)
            except DataError as error:
                yield row, DataError(f"{super().place(row)}: {error}")
                continue
            if reason := _useless(compared, self.reading.is_labelled):
                number = self.ledger.add(row, np.nan)
                self.tally.drop(reason, number, self.place)
                self.note_fault(f"{self.place(number)}: {translate(reason)}")
            else:
                self.tally.count_odd(raw, super().place(row))
                yield row, compared

    def _compared(self, row: Row) -> Compared:
        if self.reading.map_fn is not None:
            row = apply_map_fn(self.reading.map_fn, row, "dataset_map_fn")
        compared = read_compared(row)
        if not self.reading.is_labelled and len(compared.answers) == 1:
            raise DataError(
                translate(
                    "the row has one answer, and a preference takes two: build_unpaired_dataset takes single "
                    "answers with labels (KTO)"
                )
            )
        if self.reading.is_labelled and not compared.is_labelled:
            raise DataError(
                translate(
                    "the answers of the row have scores, not labels: build_unpaired_dataset needs to know "
                    "which are good; give a dataset_map_fn that returns labels, true or false for each"
                )
            )
        return compared


def _useless(compared: Compared, is_labelled: bool) -> str | None:
    """Why the answers of a row compare nothing, None where they do; labels may all be the same."""
    are_tied = len(set(compared.scores)) == 1
    if all(answer == compared.answers[0] for answer in compared.answers) and not (are_tied and is_labelled):
        return EQUAL
    return TIED if are_tied and not is_labelled else None


def _is_swapped(row: Row) -> bool:
    for name in _SCORED:
        chosen, rejected = (row.get(name.format(side)) for side in SIDES)
        if isinstance(chosen, (int, float)) and isinstance(rejected, (int, float)):
            return chosen < rejected
    return False


def _is_mixed(row: Row) -> bool:
    return isinstance(row.get("chosen"), str) != isinstance(row.get("rejected"), str) and all(
        row.get(side) is not None for side in SIDES
    )


def _conversation(found: Found) -> Row:
    if isinstance(found, DataError):
        raise found
    return {"conversation": [found]}
