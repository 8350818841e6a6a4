"""From rows to samples of tokens, each text for itself.

    text         ids as the tokenizer gives them: marks before, text, marks after      cut before the latter
    messages     ids of the chat template's text
    steps        ids of the prompt, then of each step; no token spans two of them
    mask         the last token of a sample, or of each step: where the head is read

A text becomes the tokens that `tokenizer(text)` gives, so that any program that loads the trained model
reads it alike.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from xtuner.dataset.encoding.chat_template import ChatTemplate
from xtuner.dataset.encoding.conversations import Encoded, check_characters, encode_texts
from xtuner.dataset.encoding.pipeline import (
    CHUNK_CHARACTERS,
    CHUNK_ROWS,
    PROMPT_FILLS,
    Encoding,
    Faults,
    Rows,
    Tally,
    Writer,
    apply_map_fn,
)
from xtuner.dataset.heads.rows import RawText, RowKind
from xtuner.errors import DataError

Ids = np.ndarray
Row = Mapping[str, Any]


def encode_texts_of(
    rows: Rows,
    settings: Encoding,
    writer: Writer,
    tally: Tally,
    advance: Callable[[int, int], None],
    kind: RowKind,
) -> None:
    """Map, encode and write all rows of a `kind`, and count them in `tally`; see `encode_rows`."""
    faults = Faults(rows, settings.strict, writer, tally)
    encoder = TextEncoder(settings.tokenizer, settings.max_length)
    for chunk in _chunks(_read(rows, settings, encoder, kind, faults)):
        _write(chunk, encoder, rows, writer, tally, kind)
        advance(tally.stats["rows"], tally.stats["tokens"])
    faults.check()


@dataclass(frozen=True)
class _Read:
    """A row that was read: the texts of its samples, in groups, and its value."""

    number: int
    groups: list[list[RawText]]
    value: Any

    def texts(self) -> Iterator[RawText]:
        for group in self.groups:
            yield from group


def _read(
    rows: Rows, settings: Encoding, encoder: TextEncoder, kind: RowKind, faults: Faults
) -> Iterator[_Read]:
    for number, read in rows.unread():
        faults.tally.count_row()
        try:
            row = read()
        except DataError as error:
            faults.leave_out(number, str(error))
            continue
        try:
            if settings.dataset_map_fn is not None:
                row = apply_map_fn(settings.dataset_map_fn, row, "dataset_map_fn")
            groups, value = kind.read(row)
            found = _Read(number, [[encoder.written(raw) for raw in group] for group in groups], value)
        except DataError as error:
            faults.leave_out(number, f"{rows.place(number)}: {error}")
            continue
        yield found


def _chunks(found: Iterator[_Read]) -> Iterator[list[_Read]]:
    chunk: list[_Read] = []
    characters = 0
    for row in found:
        chunk.append(row)
        characters += sum(len(raw.text or "") + sum(map(len, raw.steps)) for raw in row.texts())
        if len(chunk) >= CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _write(
    chunk: list[_Read], encoder: TextEncoder, rows: Rows, writer: Writer, tally: Tally, kind: RowKind
) -> None:
    samples: list[Sample] = []
    numbers: list[int] = []
    encoder.prepare([raw for row in chunk for raw in row.texts()])
    for row in chunk:
        own = [encoder.sample(raw) for raw in row.texts()]
        if not all(sample.mask.any() for sample in own):
            tally.drop(PROMPT_FILLS, row.number, rows.place)
            continue
        kind.keep(row.value, [len(group) for group in row.groups], sum(int(s.mask.sum()) for s in own))
        samples += own
        numbers += [row.number] * len(own)
        if lost := sum(sample.num_cut for sample in own):
            tally.stats["cut"] += 1
            tally.stats["cut_tokens"] += lost
    ids = np.concatenate([*(sample.ids for sample in samples), np.zeros(0, np.int32)])
    mask = np.concatenate([*(sample.mask for sample in samples), np.zeros(0, bool)])
    offsets = np.cumsum([0, *(len(sample.ids) for sample in samples)])
    nothing = np.zeros(len(samples), np.int64)
    encoded = Encoded(ids, mask, offsets, np.arange(len(samples)), nothing, nothing)
    writer.append(encoded, np.array(numbers, np.int64))
    tally.stats["samples"] += len(samples)
    tally.stats["tokens"] += len(ids)
    tally.stats["trained"] += int(mask.sum())


@dataclass(frozen=True)
class Sample:
    """Tokens, which of them the head is read at, and the number of tokens that were cut off."""

    ids: Ids
    mask: np.ndarray
    num_cut: int


@dataclass
class TextEncoder:
    """Tokens of texts, of which each is tokenised once in a chunk."""

    tokenizer: Any
    max_length: int | None
    _ids: dict[str, Ids] = field(default_factory=dict)

    def written(self, raw: RawText) -> RawText:
        """`raw` as text, written by the chat template if it is messages."""
        if raw.messages:
            words = self._template.write(raw.messages, raw.tools or None, prompt=bool(raw.steps))
            raw = replace(raw, text=words)
        for name, words in (("text", raw.text or ""), *(("step", step) for step in raw.steps)):
            check_characters(words, name)
        return raw

    def prepare(self, texts: list[RawText]) -> None:
        """Tokenise all texts of a chunk in one call."""
        words = list(dict.fromkeys(part for raw in texts for part in (raw.text or "", *raw.steps)))
        self._ids = dict(zip(words, encode_texts(self.tokenizer, words), strict=True))

    def sample(self, raw: RawText) -> Sample:
        """The tokens of one of these texts, at most `max_length`; of steps as many as fit whole."""
        ids, limit = self._ids[raw.text or ""], self.max_length or 1 << 31
        # A chat template writes the marks itself.
        before, after = (ids[:0], ids[:0]) if raw.messages else self._around
        if raw.steps:
            parts = [before, ids, *(self._ids[step] for step in raw.steps)]
            ends = np.cumsum([len(part) for part in parts])
            fitting = int(np.searchsorted(ends, limit, side="right"))
            marked, whole = ends[2:fitting] - 1, int(ends[-1])
            found = np.concatenate([before[:0], *parts[:fitting]])
        else:
            whole = len(before) + len(ids) + len(after)
            kept = ids[: max(0, limit - len(before) - len(after))]
            found = np.concatenate([before, kept, after])[:limit]
            marked = np.array([len(found) - 1])
        mask = np.zeros(len(found), bool)
        mask[marked] = True
        return Sample(found, mask, whole - len(found))

    @functools.cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate(self.tokenizer)

    @functools.cached_property
    def _around(self) -> tuple[Ids, Ids]:
        """The marks that the tokenizer puts before and after a text."""
        whole, bare = (
            self.tokenizer("a", add_special_tokens=marked)["input_ids"] for marked in (True, False)
        )
        start = next(n for n in range(len(whole)) if whole[n : n + len(bare)] == bare)
        return np.array(whole[:start], np.int32), np.array(whole[start + len(bare) :], np.int32)
