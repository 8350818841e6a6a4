"""The facts of a data file: its format, and the lengths of its rows in tokens."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xtuner.dataset import map_fns
from xtuner.dataset.encoding.conversations import Encoded
from xtuner.dataset.encoding.pipeline import Encoding, Tally, encode_rows
from xtuner.dataset.items.summary import describe_dropped
from xtuner.dataset.map_fns.auto import Format, auto_map_fn, find_format
from xtuner.dataset.map_fns.pretrain import pretrain_map_fn
from xtuner.dataset.map_fns.template import template_map_fn_factory
from xtuner.dataset.reading.load import load_dataset
from xtuner.dataset.reading.selection import Selection, take_split
from xtuner.errors import DataError
from xtuner.language import translate
from xtuner.proposal.tools import tools_note

Row = dict[str, Any]

# The number of rows to measure; more would change the result by less than a step of max_length.
SAMPLE = 2000
_MAX_QUESTION = 200


@dataclass(frozen=True)
class DataFacts:
    """A data file; `lengths` are the sorted lengths of the measured rows.

    `prompts` are the sorted lengths of their parts before the first answer.
    """

    path: str
    num_rows: int
    format_name: str
    why_format: str
    map_fn: str | None  # its name in `xtuner.dataset.map_fns`, "auto", or None for rows that need none
    is_text: bool
    lengths: list[int]
    questions: list[str]
    prompts: list[int]
    is_pairs: bool = False  # of answers, one preferred to the other
    is_prompts: bool = False  # to sample answers to; `prompts` are the lengths of the references then
    samples_per_row: float = 1.0
    has_images: bool = False  # in conversations, and the model reads them
    image_folder: str | None = None  # None: the working folder, or names are absolute
    takes_template: bool = True  # else, for images, the processor has a chat template
    shown: Sequence[str] = ()  # the image of each question
    note_template: str = ""  # what the template does with tools of the rows
    chat_template: str | None = None  # for pairs, where the tokenizer lacks the one that is to be used

    @property
    def num_tokens(self) -> float:
        """The tokens of all rows, extrapolated from the measured ones."""
        return sum(self.lengths) / len(self.lengths) * self.num_rows * self.samples_per_row

    def length_of(self, fraction: float) -> int:
        """The length that this fraction of the rows does not exceed."""
        return self.lengths[min(len(self.lengths) - 1, int(fraction * len(self.lengths)))]


def look_at_data(path: str, tokenizer: Any, template: str) -> DataFacts:
    """The facts of the file, measured with `tokenizer` and the prompt template of that name."""
    rows, numbers, read = read_some(path)
    found = find_format(read[0])
    map_fn = auto_map_fn if found.renames else found.map_fn
    is_text = found.map_fn is pretrain_map_fn
    measured = _measure(
        Selection(rows.sources, np.array(numbers)),
        Encoding(tokenizer, None, map_fn, None if is_text else template_map_fn_factory(template)),
    )
    converted = [(row, turns) for row in read if (turns := _conversation(row, map_fn)) is not None]
    conversations = [turns for _, turns in converted]
    return DataFacts(
        path=path,
        num_rows=len(rows),
        format_name=found.name,
        why_format=found.why,
        map_fn=_name_to_write(found, [row for row, _ in converted], conversations),
        is_text=is_text,
        lengths=sorted(measured.lengths),
        questions=_questions(conversations, is_text),
        prompts=sorted(measured.prompts),
        note_template="" if is_text else tools_note(tokenizer, template, conversations),
    )


def read_some(path: str) -> tuple[Selection, Sequence[int], list[Row]]:
    """All rows of the file, and those that are measured, by number and as read."""
    rows = take_split(load_dataset(path), "train")
    if len(rows) == 0:
        raise DataError(translate("the data is empty: there are no rows in {path}", path=path))
    numbers = _some(len(rows))
    return rows, numbers, list(_readable(rows, numbers))


def _readable(rows: Selection, numbers: Sequence[int]) -> Iterator[Row]:
    """The rows of these numbers without broken ones, of which training accepts a few."""
    broken = None
    count = 0
    for number in numbers:
        try:
            yield dict(rows.row(number))
            count += 1
        except DataError as error:
            broken = broken or error
    if not count and broken:
        raise broken


def _conversation(row: Row, map_fn: Any) -> list[dict[str, Any]] | None:
    try:
        return map_fn(row)["conversation"]
    except DataError:  # reported with its position when the rows are measured, if there are many
        return None


class Measured:
    """Receives samples as a store does; keeps the length of each and of its part before the answer."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.prompts: list[int] = []

    def append(self, encoded: Encoded, row_numbers: np.ndarray, keep: np.ndarray | None = None) -> None:
        numbers = range(len(encoded.rows)) if keep is None else np.flatnonzero(keep).tolist()
        for number in numbers:
            _, trained = encoded.sample(number)
            self.lengths.append(len(trained))
            self.prompts.append(int(trained.argmax()))

    def note_fault(self, message: str) -> None:
        """Does nothing: faults are reported when training starts."""

    def add_column(self, name: str, numbers: np.ndarray) -> None:
        """What is known of samples beside their tokens does not change their lengths."""


def _measure(rows: Selection, settings: Encoding) -> Measured:
    """The lengths of the rows, encoded as in training, before any cut."""
    measured, tally = Measured(), Tally()
    encode_rows(rows, settings, measured, tally)
    if not measured.lengths:
        dropped = describe_dropped(tally.about()["stats"])
        what = "none of the {count:,} rows looked at has anything to train on:{dropped}"
        raise DataError(translate(what, count=len(rows), dropped=dropped))
    return measured


def _some(count: int) -> Sequence[int]:
    """The numbers of the rows to measure: all, or a random sample."""
    return range(count) if count <= SAMPLE else sorted(random.Random(0).sample(range(count), SAMPLE))


def _name_to_write(found: Format, rows: list[dict[str, Any]], conversations: list[Any]) -> str | None:
    """The map function of configs that makes `conversations` of `rows`; "auto" if there is none."""
    if [row.get("conversation") for row in rows] == conversations:
        return None
    if found.renames:
        return "auto"
    name = f"{found.name}_map_fn"
    map_fn = getattr(map_fns, name, None)
    return name if map_fn is not None and _makes(map_fn, rows, conversations) else "auto"


def _makes(map_fn: Any, rows: list[dict[str, Any]], conversations: list[Any]) -> bool:
    try:
        return all(
            map_fn(row)["conversation"] == turns for row, turns in zip(rows, conversations, strict=True)
        )
    except DataError:  # the format allows more than this function, such as rows without "input"
        return False


def _questions(conversations: list[list[dict[str, Any]]], is_text: bool) -> list[str]:
    """Two short questions of the data, or beginnings of its texts, as prompts during training."""
    texts = (
        str(turns[0].get("output" if is_text else "input", "")).strip() for turns in conversations if turns
    )
    return short_ones(text[:40].strip() if is_text else text for text in texts)


def short_ones(texts: Iterable[str]) -> list[str]:
    """The first two of the texts that are short."""
    found: list[str] = []
    for text in texts:
        if text and len(text) <= _MAX_QUESTION and text not in found:
            found.append(text)
        if len(found) == 2:
            break
    return found
