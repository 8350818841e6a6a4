"""Tokenise rows to samples: map, template, encode, a chunk of rows at a time.

    rows        {"instruction": "Add.", "input": "1 2", "output": "3"}
    converse    [{"input": "Add.\\n1 2", "output": "3"}]                                  by dataset_map_fn
    map_row     [{"input": "<|User|>:Add.\\n1 2\\n<|Bot|>:", "output": "3", ...}]         by template_map_fn
    encode      ids [1 9 36 ... 2 209], mask [. . . ... x .]                        a chunk of rows at once

A faulty row (broken JSON, a missing or wrong field) is left out, counted and named. It is an error with
`strict`, or if there are many: then the data or its settings are probably wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from xtuner.dataset.encoding.conversations import (
    Encoded,
    InvalidRowError,
    Planned,
    Tokens,
    is_document,
    plan_conversations,
)
from xtuner.dataset.map_fns import DATASET_FORMAT_MAPPING, auto_map_fn
from xtuner.dataset.map_fns.fields import flag, is_trained, items, missing_field, turn_text
from xtuner.dataset.map_fns.images import with_frames
from xtuner.errors import ConfigError, DataError
from xtuner.language import translate
from xtuner.log import say_once

Row = Mapping[str, Any]
Conversation = list[Row]
MapFn = Callable[[Any], Any]

CHUNK_ROWS = 4096
CHUNK_CHARACTERS = 4_000_000
FIRST_CHUNK_ROWS = 512
"""The first chunks are small, so that tokenising begins early; each has twice the rows of the one before."""

NAMED_ROWS = 3
"""The number of dropped rows that a message names, for each reason."""

MAX_FAULTY_FRACTION = 0.05
"""If a larger fraction of the rows is faulty, the data or its settings are probably wrong."""

SURE_FAULTS = 200
"""After more faults than this, the fraction is checked before the end of the data."""

EMPTY = "no conversation in them"
PROMPT_FILLS = "a prompt that alone fills max_length"
NOTHING_TRAINED = "nothing to train on"
FAULTY = "a fault in them"


@dataclass(frozen=True)
class Encoding:
    """The settings of tokenisation."""

    tokenizer: Any
    max_length: int | None
    dataset_map_fn: MapFn | None = None
    template_map_fn: MapFn | None = None
    rename_maps: Mapping[str, str] = field(default_factory=dict)
    input_ids_with_output: bool = True
    with_image_token: bool = False
    strict: bool = False
    one_sample_per_turn: bool = False
    keep_thinking: bool = False  # of the last answer, where the chat template leaves it out
    video_frames: int | None = None  # of a video, which are images in its place; None: rows have no videos


class Rows(Protocol):
    """Numbered rows, each with a function that reads it and its position."""

    def unread(self) -> Iterator[tuple[int, Callable[[], Row]]]: ...
    def place(self, number: int) -> str: ...


class Writer(Protocol):
    """Receives samples, and messages about faulty rows."""

    def append(self, encoded: Encoded, row_numbers: np.ndarray, keep: np.ndarray | None = None) -> None: ...
    def note_fault(self, message: str) -> None: ...


@dataclass
class Tally:
    """The counts of rows used, cut and left out."""

    stats: dict[str, Any] = field(
        default_factory=lambda: dict.fromkeys(
            ("rows", "samples", "cut", "cut_tokens", "continued", "tokens", "trained", "empty_answers"), 0
        )
    )
    dropped: dict[str, int] = field(default_factory=dict)
    named: dict[str, list[str]] = field(default_factory=dict)
    empty_answer_rows: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    left_out_rows: dict[str, list[str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def count_row(self) -> None:
        """Count a row, whatever becomes of it."""
        self.stats["rows"] += 1

    def drop(self, reason: str, row: int, place: Callable[[int], str]) -> None:
        """Count a row that is left out."""
        _count_named(self.dropped, self.named, reason, row, place)

    def count_left_out(self, kind: str, row: int, place: Callable[[int], str]) -> None:
        """Count a row with words of that kind that the chat template leaves out."""
        _count_named(self.left_out, self.left_out_rows, kind, row, place)

    def count_empty(self, row: int, place: Callable[[int], str]) -> None:
        """Count a row with an empty supervised answer."""
        self.stats["empty_answers"] += 1
        if len(self.empty_answer_rows) < NAMED_ROWS:
            self.empty_answer_rows.append(place(row))

    def about(self) -> dict[str, Any]:
        """All the counts, for a store."""
        counts = {"dropped": self.dropped, "dropped_rows": self.named, "faults": self.faults}
        counts |= {"left_out": self.left_out, "left_out_rows": self.left_out_rows}
        return {"stats": {**self.stats, **counts, "empty_answer_rows": self.empty_answer_rows}}


def _count_named(
    counts: dict[str, int], named: dict[str, list[str]], key: str, row: int, place: Callable[[int], str]
) -> None:
    counts[key] = counts.get(key, 0) + 1
    positions = named.setdefault(key, [])
    if len(positions) < NAMED_ROWS:
        positions.append(place(row))


def encode_rows(
    rows: Rows,
    settings: Encoding,
    writer: Writer,
    tally: Tally,
    advance: Callable[[int, int], None] = lambda rows, tokens: None,
) -> None:
    """Map, encode and write all rows, and count them in `tally`.

    `advance` receives the numbers of rows and tokens done. Raises DataError for a faulty row if `strict`, or
    if there are many.
    """
    # A tokenizer in Rust releases the GIL, so the next chunk is read meanwhile.
    with ThreadPoolExecutor(1) as tokenising:
        faults = Faults(rows, settings.strict, writer, tally)
        pipeline = _Pipeline(rows, settings, writer, tally, faults, tokenising)
        begun: _PendingChunk | None = None
        for numbers, conversations in _chunks(pipeline.conversations()):
            following = pipeline.begin(numbers, conversations)
            if begun is not None:
                pipeline.write(begun)
                advance(tally.stats["rows"], tally.stats["tokens"])
            begun = following
        if begun is not None:
            pipeline.write(begun)
            advance(tally.stats["rows"], tally.stats["tokens"])
    faults.check()


@dataclass(frozen=True)
class Faults:
    """Rows with a fault: left out, counted and noted; an error with `strict`, or if there are many."""

    rows: Rows
    strict: bool
    writer: Writer
    tally: Tally

    def leave_out(self, number: int, message: str) -> None:
        """Count a faulty row; DataError with `strict`, or if there are many."""
        self.tally.drop(FAULTY, number, self.rows.place)
        if len(self.tally.faults) < NAMED_ROWS:
            self.tally.faults.append(message)
        if self.strict:
            raise DataError(message)
        self.writer.note_fault(message)
        self.check(SURE_FAULTS)

    def check(self, at_least: int = 0) -> None:
        """DataError if there are more faults than `at_least`, and than the allowed fraction of the rows."""
        count, rows = self.tally.dropped.get(FAULTY, 0), self.tally.stats["rows"]
        if count > max(at_least, rows * MAX_FAULTY_FRACTION):
            more = (
                translate(" ({count:,} of {rows:,} rows have a fault)", count=count, rows=rows)
                if count > 1
                else ""
            )
            raise DataError(f"{self.tally.faults[0]}{more}")


@dataclass(frozen=True)
class _PendingChunk:
    """A chunk that is being tokenised."""

    numbers: list[int]
    conversations: list[Conversation]
    planned: Planned
    tokens: Future[Tokens]


@dataclass(frozen=True)
class _Pipeline:
    """The steps from rows to samples, and their common state."""

    rows: Rows
    settings: Encoding
    writer: Writer
    tally: Tally
    faults: Faults
    tokenising: Executor

    def conversations(self) -> Iterator[tuple[int, Conversation]]:
        """Number and conversation of each row that has one."""
        for number, read in self.rows.unread():
            self.tally.count_row()
            try:
                row = read()
            except DataError as error:
                self.faults.leave_out(number, str(error))
                continue
            try:
                row = converse(row, self.settings)
                conversation = put_in_template(row, self.settings)
                has_empty_answer = any(map(_has_empty_answer, row["conversation"] or ()))
            except DataError as error:
                self.faults.leave_out(number, f"{self.rows.place(number)}: {error}")
                continue
            if not conversation:
                self.tally.drop(EMPTY, number, self.rows.place)
                continue
            if has_empty_answer:
                self.tally.count_empty(number, self.rows.place)
            yield number, conversation

    def begin(self, numbers: list[int], conversations: list[Conversation]) -> _PendingChunk:
        """Start tokenising a chunk, without the rows that cannot be tokenised."""
        while True:
            try:
                planned = plan_conversations(
                    conversations,
                    self.settings.tokenizer,
                    input_ids_with_output=self.settings.input_ids_with_output,
                    with_image_token=self.settings.with_image_token,
                    one_sample_per_turn=self.settings.one_sample_per_turn,
                    keep_thinking=self.settings.keep_thinking,
                )
                return _PendingChunk(
                    numbers, conversations, planned, self.tokenising.submit(planned.tokenise)
                )
            except InvalidRowError as error:
                numbers, conversations = self.without(error, numbers, conversations)

    def without(
        self, error: InvalidRowError, numbers: list[int], conversations: list[Conversation]
    ) -> tuple[list[int], list[Conversation]]:
        """The chunk without the row of `error`, which is counted as left out."""
        row = error.row
        self.faults.leave_out(numbers[row], f"{self.rows.place(numbers[row])}: {error}")
        return [*numbers[:row], *numbers[row + 1 :]], [*conversations[:row], *conversations[row + 1 :]]

    def write(self, chunk: _PendingChunk) -> None:
        """Write the samples of one chunk that have supervised tokens."""
        settings, tally, place = self.settings, self.tally, self.rows.place
        while True:
            try:
                tokens = chunk.tokens.result()
                break
            except InvalidRowError as error:
                chunk = self.begin(*self.without(error, chunk.numbers, chunk.conversations))
        encoded = chunk.planned.samples(tokens, settings.max_length, continue_documents=True)
        counts = encoded.trained_counts()
        # Items without outputs are prompts for generation, so all are kept.
        keep = counts > 0 if settings.input_ids_with_output else np.ones(len(counts), bool)
        for row in np.setdiff1d(encoded.rows, encoded.rows[keep]).tolist():
            reason = PROMPT_FILLS if encoded.full_trained[row] else NOTHING_TRAINED
            tally.drop(reason, chunk.numbers[row], place)
        for row, kind in chunk.planned.left_out:
            tally.count_left_out(kind, chunk.numbers[row], place)
        self.writer.append(encoded, np.array(chunk.numbers, np.int64), keep)
        _count(encoded, chunk.conversations, counts, keep, settings.max_length, tally)


def _has_empty_answer(turn: Row) -> bool:
    """Whether the turn has a supervised answer without text, of which only the end would be learnt."""
    if turn.get("messages"):
        return any(
            message.get("role") == "assistant"
            and is_trained(message)
            and not (message.get("tool_calls") or message.get("content") or message.get("reasoning_content"))
            for message in turn["messages"]
        )
    end_is_supervised = is_trained(turn) and flag(turn, "need_eos_token")
    return end_is_supervised and not turn_text(turn, "output").strip()


def _chunks(
    conversations: Iterator[tuple[int, Conversation]],
) -> Iterator[tuple[list[int], list[Conversation]]]:
    """Row numbers and conversations in chunks for one call of the tokenizer."""
    numbers: list[int] = []
    chunk: list[Conversation] = []
    characters, most = 0, FIRST_CHUNK_ROWS
    for number, conversation in conversations:
        numbers.append(number)
        chunk.append(conversation)
        characters += sum(
            len(text)
            for turn in conversation
            for part in (turn, *turn.get("messages", ()))
            for text in part.values()
            if isinstance(text, str)
        )
        if len(chunk) >= most or characters >= CHUNK_CHARACTERS:
            yield numbers, chunk
            numbers, chunk, characters = [], [], 0
            most = min(2 * most, CHUNK_ROWS)
    if chunk:
        yield numbers, chunk


def _count(
    encoded: Encoded,
    conversations: list[Conversation],
    counts: np.ndarray,
    keep: np.ndarray,
    max_length: int | None,
    tally: Tally,
) -> None:
    stats = tally.stats
    stats["samples"] += int(keep.sum())
    stats["tokens"] += int(np.diff(encoded.offsets)[keep].sum())
    stats["trained"] += int(counts[keep].sum())
    kept_rows = np.unique(encoded.rows[keep])
    for row in kept_rows[encoded.full_lengths[kept_rows] > (max_length or np.inf)].tolist():
        if is_document(conversations[row]):
            stats["continued"] += 1
        else:
            stats["cut"] += 1
            stats["cut_tokens"] += int(encoded.full_lengths[row]) - (max_length or 0)


# --- one row ---------------------------------------------------------------------------------------------


def map_row(row: Row, settings: Encoding) -> Conversation:
    """The conversation of one row, with the template around its turns; may be empty."""
    return put_in_template(converse(row, settings), settings)


def converse(row: Row, settings: Encoding) -> Row:
    """The row mapped to its `conversation`, which may be empty."""
    if settings.video_frames is not None:
        row = with_frames(row, settings.video_frames)
    if settings.dataset_map_fn is not None:
        row = apply_map_fn(settings.dataset_map_fn, row, "dataset_map_fn")
    if settings.rename_maps:
        row = {settings.rename_maps.get(name, name): value for name, value in row.items()}
    if "conversation" not in row:
        raise DataError(f"{missing_field('conversation', row)}{_suggest_formats(row, settings)}")
    if row["conversation"]:
        row = {**row, "conversation": items(row, "conversation")}
    return row


def put_in_template(row: Row, settings: Encoding) -> Conversation:
    """The conversation of `row` with the template around its turns."""
    if not row["conversation"]:
        return []
    if settings.template_map_fn is not None:
        row = apply_map_fn(settings.template_map_fn, row, "template_map_fn")
    conversation = items(row, "conversation")
    if settings.template_map_fn is None and any(turn.get("system") for turn in conversation):
        say_once("rows have a system text, but without a template_map_fn it does not reach the model")
    if any(turn.get("tools") and "input" in turn for turn in conversation):
        say_once(
            "rows offer tools to the model, which only the tokenizer's own chat template shows: set "
            "prompt_template = PROMPT_TEMPLATE.auto for that"
        )
    return conversation


def apply_map_fn(function: MapFn, row: Row, argument: str) -> Row:
    """`row` updated with the result of the user's function; DataError if that fails."""
    name = getattr(getattr(function, "func", function), "__name__", str(function))
    try:
        result = function(row)
    except DataError as error:
        done = argument == "dataset_map_fn" and "conversation" in row
        hint = (
            translate(" The rows are in conversation form already: set dataset_map_fn = None") if done else ""
        )
        raise DataError(f"{name}: {error}{hint}") from None
    except ConfigError:
        raise
    except KeyError as error:
        missing = error.args[0] if error.args else ""
        if isinstance(missing, str) and missing not in row:
            raise DataError(f"{name}: {missing_field(missing, row)}") from error
        raise DataError(
            translate("{name} failed: {kind}: {error}", name=name, error=error, kind=type(error).__name__)
        ) from error
    except Exception as error:
        raise DataError(
            translate("{name} failed: {kind}: {error}", name=name, error=error, kind=type(error).__name__)
        ) from error
    if not isinstance(result, Mapping):
        raise DataError(
            translate(
                "{argument} {name} must return a dict; it returned {kind}",
                argument=argument,
                name=name,
                kind=type(result).__name__,
            )
        )
    # Fields that a function does not return are kept, as by datasets.Dataset.map.
    return {**row, **result}


def _suggest_formats(row: Row, settings: Encoding) -> str:
    if settings.dataset_map_fn is not None:
        return translate(" A dataset_map_fn must return {'conversation': [...]}")
    fitting = [
        name
        for name, function in DATASET_FORMAT_MAPPING.items()
        if function is not auto_map_fn and _fits(function, row)
    ]
    if not fitting:
        return translate(" Give a dataset_map_fn that makes {'conversation': [...]} of a row")
    names = translate(" or ").join(f"{name}_map_fn" for name in fitting)
    return translate(" Its fields fit dataset_map_fn = {names}", names=names)


def _fits(function: MapFn, row: Row) -> bool:
    try:
        return bool(function(row)["conversation"])
    except DataError:
        return False
