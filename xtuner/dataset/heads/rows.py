"""What a row says, for each kind of data: its samples, and the numbers that go with them.

classification   {"text", "label"}                     one sample         column labels, a row a sample
embedding        {"anchor", "positive", "negatives"}   a sample a text    column groups, 0 0 0 1 1 ...
stepwise         {"prompt", "completions", "labels"}   one sample         column steps, a number a step
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from xtuner.dataset.map_fns.fields import missing_field, present
from xtuner.dataset.map_fns.heads import as_right
from xtuner.errors import DataError, did_you_mean
from xtuner.language import translate

Row = Mapping[str, Any]
Message = Mapping[str, Any]


@dataclass(frozen=True)
class RawText:
    """A text, or messages that the chat template writes; `steps` follow it, each with its end marked."""

    text: str | None = None
    messages: Sequence[Message] = ()
    tools: Sequence[Any] = ()
    steps: Sequence[str] = ()


class RowKind(Protocol):
    """Reads rows of one kind, and keeps the numbers of those that are used."""

    def read(self, row: Row) -> tuple[list[list[RawText]], Any]:
        """Groups of samples of a mapped row, and its values; DataError if something is wrong with it."""

    def keep(self, value: Any, groups: Sequence[int], num_steps: int) -> None:
        """Note the value of a row, the numbers of samples of its groups, and its steps that fit."""

    def columns(self) -> dict[str, np.ndarray]:
        """The columns of the store."""


class Classes:
    """Labels by name, one of a text or any number of them."""

    def __init__(self, names: Sequence[str], several: bool) -> None:
        self.names, self.several = list(names), several
        self._index = {name: number for number, name in enumerate(names)}
        self._kept: list[Any] = []

    def read(self, row: Row) -> tuple[list[list[RawText]], Any]:
        raw = _raw_text(row)
        value = _label_of(row)
        if not self.several:
            if isinstance(value, (list, tuple)) and len(value) == 1:
                value = value[0]
            return [[raw]], self._number(value)
        if isinstance(value, Mapping):
            value = [name for name, holds in value.items() if holds]
        if isinstance(value, str) or not isinstance(value, Sequence):
            what = "the labels of the row are {value!r:.80}; they must be a list of names"
            raise DataError(translate(what, value=value))
        found = np.zeros(len(self.names), np.uint8)
        found[[self._number(one) for one in value]] = 1
        return [[raw]], found

    def keep(self, value: Any, groups: Sequence[int], num_steps: int) -> None:
        self._kept.append(value)

    def columns(self) -> dict[str, np.ndarray]:
        if self.several:
            return {"labels": np.array(self._kept, np.uint8).reshape(-1, len(self.names))}
        return {"labels": np.array(self._kept, np.int64)}

    def _number(self, value: Any) -> int:
        """The number of a label, given by its name or, unless names are numbers too, by its number."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if (name := str(value).strip()) in self._index:
            return self._index[name]
        are_words = not all(name.lstrip("-").isdigit() for name in self.names)
        # True and false are 1 and 0.
        if are_words and isinstance(value, int) and value in range(len(self.names)):
            return int(value)
        what = "the label {value!r:.80} is none of: {known}.{hint}"
        hint = did_you_mean(str(value), self.names)
        raise DataError(translate(what, value=value, known=", ".join(self.names), hint=hint))


class Numbers:
    """A number for each text."""

    def __init__(self) -> None:
        self._kept: list[float] = []

    def read(self, row: Row) -> tuple[list[list[RawText]], Any]:
        value = _label_of(row)
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise DataError(translate("the label {value!r:.80} is not a number", value=value))
        return [[_raw_text(row)]], number

    def keep(self, value: Any, groups: Sequence[int], num_steps: int) -> None:
        self._kept.append(value)

    def columns(self) -> dict[str, np.ndarray]:
        return {"labels": np.array(self._kept, np.float32)}


class Groups:
    """An anchor, a text that belongs to it and any number of texts that do not: a group of samples."""

    def __init__(self) -> None:
        self._sizes: list[int] = []

    def read(self, row: Row) -> tuple[list[list[RawText]], Any]:
        anchor = _text_or_messages(row, "anchor")
        positives = _several(row, "positive")
        if not positives:
            raise DataError(translate("the row has no positive text"))
        negatives = _several(row, "negatives") if row.get("negatives") else []
        for positive in positives:
            if positive == anchor:
                raise DataError(translate("anchor and positive of the row are equal"))
            if positive in negatives:
                raise DataError(translate("a negative of the row is its positive"))
        return [[anchor, positive, *negatives] for positive in positives], None

    def keep(self, value: Any, groups: Sequence[int], num_steps: int) -> None:
        self._sizes += groups

    def columns(self) -> dict[str, np.ndarray]:
        return {"groups": np.repeat(np.arange(len(self._sizes), dtype=np.uint32), self._sizes)}


class Steps:
    """The steps of an answer, each right or wrong."""

    def __init__(self, separator: str) -> None:
        self.separator = separator
        self._labels: list[bool] = []
        self._counts: list[int] = []

    def read(self, row: Row) -> tuple[list[list[RawText]], Any]:
        for name in ("completions", "labels"):
            if row.get(name) is None:
                raise missing_field(name, present(row))
        steps, labels = list(row["completions"]), [as_right(value) for value in row["labels"]]
        if len(steps) != len(labels):
            what = "the row has {steps} steps and {labels} labels: each step needs one"
            raise DataError(translate(what, steps=len(steps), labels=len(labels)))
        if not steps:
            raise DataError(translate("the row has no steps"))
        for number, step in enumerate(steps):
            if not isinstance(step, str) or not step.strip():
                what = "step {number} of the row is {step!r:.40}; it must be text"
                raise DataError(translate(what, number=number + 1, step=step))
        asked = _text_or_messages(row, "prompt", tools=row.get("tools") or ())
        ended = [step + self.separator for step in steps]
        return [[RawText(asked.text, asked.messages, asked.tools, ended)]], labels

    def keep(self, value: Any, groups: Sequence[int], num_steps: int) -> None:
        self._labels += value[:num_steps]
        self._counts.append(num_steps)

    def columns(self) -> dict[str, np.ndarray]:
        return {
            "steps": np.array(self._labels, np.uint8),
            "step_counts": np.array(self._counts, np.uint32),
        }


def _label_of(row: Row) -> Any:
    value = row.get("label")
    if value is None or value != value:
        raise missing_field("label", present(row))
    return value


def _raw_text(row: Row) -> RawText:
    if row.get("messages") is not None:
        return _text_or_messages(row, "messages", tools=row.get("tools") or ())
    return _text_or_messages(row, "text")


def _several(row: Row, name: str) -> list[RawText]:
    value = row[name] if row.get(name) is not None else []
    # A list of messages is one conversation.
    is_one = isinstance(value, str) or all(isinstance(one, Mapping) for one in value)
    values = [value] if value and is_one else list(value)
    return [_text_or_messages({name: one}, name) for one in values]


def _text_or_messages(row: Row, name: str, tools: Sequence[Any] = ()) -> RawText:
    value = row.get(name)
    if value is None:
        raise missing_field(name, present(row))
    if isinstance(value, str):
        if not value.strip():
            raise DataError(translate("{name} is empty: it must hold a text", name=name))
        return RawText(text=value)
    is_dialogue = isinstance(value, Sequence) and all(isinstance(message, Mapping) for message in value)
    if not is_dialogue or not value:
        what = "{name} is {value!r:.80}; it must be a text or a list of messages"
        raise DataError(translate(what, name=name, value=value))
    if not any(message.get("content") or message.get("tool_calls") for message in value):
        raise DataError(translate("{name} is empty: it must hold a text", name=name))
    return RawText(messages=value, tools=tools)
