"""Read a field of a raw row as text, or say which one is missing and what is there instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xtuner.errors import DataError, did_you_mean

Row = Mapping[str, Any]


def missing_field(field: str, present: Iterable[str]) -> DataError:
    """The error for a row without `field`, with the fields it has and the nearest of them."""
    names = list(present)
    return DataError(
        f"the row has no field {field!r}; its fields are {', '.join(map(repr, names)) or '(none)'}."
        f"{did_you_mean(field, names)}"
    )


def text(row: Row, field: str) -> str:
    """The text in `field`, which must be there and not null; numbers are written out."""
    value = text_or_empty(row, field)
    if _is_missing(row[field]):
        raise DataError(f"the field {field!r} is null, and a text is needed there")
    return value


def text_or_empty(row: Row, field: str) -> str:
    """The text in `field`, which must be there; null counts as empty."""
    if field not in row:
        raise missing_field(field, row)
    value = row[field]
    if _is_missing(value):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise DataError(f"the field {field!r} is {_kind(value)}, and a text is needed there: {value!r:.80}")


def _is_missing(value: Any) -> bool:
    """Whether there is no value: null, or NaN, which is how tables of pandas spell it."""
    return value is None or value != value


def turn_text(turn: Row, key: str) -> str:
    """The text of a turn under `key`, empty where it is missing or null (as Arrow fills missing keys)."""
    value = turn.get(key)
    return value if isinstance(value, str) else "" if value is None else text(turn, key)


def items(row: Row, field: str) -> list[Row]:
    """The list of objects in `field`, such as messages."""
    if field not in row or row[field] is None:
        raise missing_field(field, (name for name in row if row[name] is not None))
    value = row[field]
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise DataError(f"the field {field!r} is {_kind(value)}, and a list is needed there: {value!r:.80}")
    for number, item in enumerate(value):
        if not isinstance(item, Mapping):
            raise DataError(
                f"{field}[{number}] is {_kind(item)}, and an object is needed there: {item!r:.80}"
            )
    return list(value)


def question_and_more(row: Row, question: str, more: str) -> str:
    """Both texts with a line break between them, which stands there also when the second is empty."""
    return f"{text(row, question)}\n{text_or_empty(row, more)}"


def one_turn(question: str, answer: str, system: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """A conversation of one question and one answer."""
    turn = {"input": question, "output": answer}
    return {"conversation": [turn if system is None else {"system": system, **turn}]}


def _kind(value: object) -> str:
    return f"of type {type(value).__name__}"
