"""The stages of rows up to tokens, and items as training reads them.

row         {"instruction": "Add.", "input": "1 2", "output": "3"}
mapped      [{"input": "Add.\\n1 2", "output": "3"}]
templated   [{"input": "<|User|>:Add.\\n1 2\\n<|Bot|>:", "output": "3<eoa>", ...}]
segments    (not trained "<s><|User|>:Add.\\n1 2\\n<|Bot|>:")  (trained "3<eoa>")
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any

import numpy as np

from xtuner.dataset.encoding.conversations import encode_conversations, is_document, labels_of
from xtuner.dataset.encoding.decoding import decode
from xtuner.dataset.encoding.pipeline import Encoding, map_row
from xtuner.errors import DataError, XTunerError
from xtuner.language import translate
from xtuner.survey.configured import Origin
from xtuner.utils import IGNORE_INDEX

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Segment:
    """The text of consecutive tokens that are all supervised or all not."""

    text: str
    trained: bool
    num_tokens: int


@dataclass(frozen=True)
class RowView:
    """The stages of one row; a stage that was not reached is None, and `error` is the reason."""

    place: str
    row: Row
    mapped: list[Row] | None = None
    templated: list[Row] | None = None
    input_ids: list[int] | None = None
    labels: list[int] | None = None
    segments: list[Segment] = field(default_factory=list)
    num_cut_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True)
class ItemView:
    """One item that training reads: its samples as segments, and the positions of their rows."""

    index: int
    input_ids: list[int]
    labels: list[int]
    samples: list[list[Segment]]
    places: list[str]


def evenly_chosen(total: int, count: int) -> np.ndarray:
    """Up to `count` of the numbers below `total`, at equal distances; the first is 0."""
    return np.linspace(0, max(0, total - 1), min(count, total)).astype(np.int64)


def view_rows(origin: Origin, count: int) -> list[RowView]:
    """The stages of `count` rows, evenly chosen."""
    if origin.rows is None:
        return []
    chosen = evenly_chosen(len(origin.rows), count)
    numbers = chosen if origin.rows.taken is None else origin.rows.taken[chosen]
    return [view_row(origin, int(number)) for number in numbers]


def view_row(origin: Origin, number: int) -> RowView:
    """The stages of row `number`, up to its error if it has one."""
    assert origin.rows is not None, "there are no rows to view"
    row = origin.rows.row(number)
    view = RowView(_place(origin.rows.place(number), number), dict(row))
    settings = origin.settings
    if settings is None:
        return view
    stages: list[list[Row]] = []
    try:
        templated = map_row(row, _keeping_conversation(settings, stages))
        view = dataclasses.replace(view, mapped=(stages or [templated])[0], templated=templated)
        if not templated:
            return view
        encoded = encode_conversations(
            [templated],
            settings.tokenizer,
            settings.max_length,
            input_ids_with_output=settings.input_ids_with_output,
            with_image_token=settings.with_image_token,
            continue_documents=True,
            one_sample_per_turn=settings.one_sample_per_turn,
        )
    except XTunerError as error:
        reached = view.mapped or (stages[0] if stages else None)
        return dataclasses.replace(view, mapped=reached, error=str(error))
    ids, trained = encoded.sample(0)
    num_left_out = 0 if is_document(templated) else int(encoded.full_lengths[0]) - len(ids)
    return dataclasses.replace(
        view,
        input_ids=ids.tolist(),
        labels=labels_of(ids, trained, IGNORE_INDEX).tolist(),
        segments=segments_of(settings.tokenizer, ids, trained),
        num_cut_tokens=num_left_out,
    )


def view_failing_row(origin: Origin) -> RowView | None:
    """The stages of the first row that cannot be mapped, else of the first row; None without rows."""
    first = None
    try:
        for number, row in origin.rows or ():
            first = number if first is None else first
            try:
                if origin.settings is not None:
                    map_row(row, origin.settings)
            except DataError:
                return view_row(origin, number)
    except DataError:
        pass  # the rest of the file cannot be read
    return None if first is None else view_row(origin, first)


def view_item(dataset: Any, tokenizer: Any, index: int) -> ItemView:
    """Item `index` as training reads it."""
    if not -len(dataset) <= index < len(dataset):
        raise DataError(
            translate(
                "there is no item {index}: the data has {count:,}, counted from 0",
                index=index,
                count=len(dataset),
            )
        )
    item = dataset[index]
    ids, labels = np.asarray(item["input_ids"]), np.asarray(item["labels"])
    boundaries = item["cumulative_len"]
    samples = [
        segments_of(tokenizer, ids[start:end], labels[start:end] != IGNORE_INDEX)
        for start, end in pairwise(boundaries)
    ]
    rows = zip(dataset.source_places(index), dataset.source_rows(index), strict=True)
    places = [_place(place, number) for place, number in rows]
    return ItemView(index % len(dataset), ids.tolist(), labels.tolist(), samples, places)


def _place(place: str, number: int) -> str:
    """The position of a row with its number, as several rows may be in one line."""
    if place.startswith(translate("row {number}", number="")):
        return place
    return translate("{place} (row {number})", place=place, number=number)


def segments_of(tokenizer: Any, ids: np.ndarray, trained: np.ndarray) -> list[Segment]:
    """The text of `ids`, split where the loss mask changes."""
    segments: list[Segment] = []
    before: list[int] = []
    for flag, run in groupby(zip(ids.tolist(), trained.tolist(), strict=True), key=lambda pair: pair[1]):
        numbers = [number for number, _ in run]
        segments.append(Segment(_decode_after(tokenizer, before, numbers), flag, len(numbers)))
        before = numbers[-8:]
    return segments


def _decode_after(tokenizer: Any, before: list[int], ids: list[int]) -> str:
    """The text that `ids` add after `before`: decoded alone, a first word may lose its space."""
    alone, earlier, both = (decode(tokenizer, part) for part in (ids, before, before + ids))
    return both[len(earlier) :] if before and both.startswith(earlier) else alone


def _keeping_conversation(settings: Encoding, stages: list[list[Row]]) -> Encoding:
    """`settings` whose template function first appends the conversation to `stages`."""
    template = settings.template_map_fn
    if template is None:
        return settings

    def keep(row: Row) -> Any:
        stages.append(list(row["conversation"]))
        return template(row)

    # Errors of a failing template contain its name.
    keep.__name__ = getattr(getattr(template, "func", template), "__name__", "template_map_fn")
    return dataclasses.replace(settings, template_map_fn=keep)
