"""Read a field of a row as text; errors name a missing field and those that exist.

Many field names mark whether an answer is supervised; `is_trained` reads all of them:

    {"loss": false}  {"weight": 0}  {"train": "no"}  {"output_with_loss": 0}  {"masked": true}  unsupervised
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xtuner.errors import DataError, did_you_mean
from xtuner.language import translate
from xtuner.log import say_once

Row = Mapping[str, Any]

TRAINED_FLAGS = (
    "output_with_loss", "loss", "weight", "train", "training", "trainable", "loss_weight", "loss_scale",
    "loss_mask",
)  # fmt: skip
"""Fields of a turn or message that are true if its answer is supervised: of XTuner, OpenAI, axolotl, ..."""
MASKED_FLAGS = ("masked",)
"""Fields that are true if it is not: of torchtune."""
ALL_FLAGS = frozenset((*TRAINED_FLAGS, *MASKED_FLAGS))
BETWEEN = "\n\n"
"""The separator of the texts of joined messages."""

_YES = ("true", "yes", "1", "1.0")
_NO = ("false", "no", "0", "0.0")


def missing_field(field: str, present: Iterable[str]) -> DataError:
    """The error for a row without `field`, with the fields it has and the nearest of them."""
    names = list(present)
    return DataError(
        translate(
            "the row has no field {field!r}; its fields are {names}.{hint}",
            field=field,
            names=", ".join(map(repr, names)) or translate("(none)"),
            hint=did_you_mean(field, names),
        )
    )


def present(row: Row) -> list[str]:
    """The fields of a row that are not null."""
    return [name for name in row if row[name] is not None]


def first_present(row: Row, names: Iterable[str]) -> str | None:
    """The first of `names` that the row has and that is not null; None if it has none of them."""
    return next((name for name in names if row.get(name) is not None), None)


def text(row: Row, field: str) -> str:
    """The text in `field`, which must exist and not be null; numbers become text."""
    value = text_or_empty(row, field)
    if _is_missing(row[field]):
        raise DataError(translate("the field {field!r} is null; it must be text", field=field))
    return value


def text_or_empty(row: Row, field: str) -> str:
    """The text in `field`, which must exist; null counts as empty."""
    if field not in row:
        raise missing_field(field, row)
    value = row[field]
    if _is_missing(value):
        return ""
    if isinstance(value, str):
        return value
    if value in (math.inf, -math.inf):
        raise DataError(translate("the field {field!r} is too large a number: write it as text", field=field))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise DataError(
        translate(
            "the field {field!r} is of type {kind}; it must be text: {value!r:.80}",
            field=field,
            value=value,
            kind=type(value).__name__,
        )
    )


def _is_missing(value: Any) -> bool:
    """Whether there is no value: null, or NaN as in tables of pandas."""
    return value is None or value != value


def turn_text(turn: Row, key: str) -> str:
    """The text of a turn under `key`, empty if missing or null (Arrow fills missing keys with null)."""
    value = turn.get(key)
    return value if isinstance(value, str) else "" if value is None else text(turn, key)


def listed(value: Any, field: str) -> Sequence[Any]:
    """`value` of the field, which must be a list."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise DataError(
            translate(
                "the field {field!r} is of type {kind}; it must be a list: {value!r:.80}",
                field=field,
                value=value,
                kind=type(value).__name__,
            )
        )
    return value


def items(row: Row, field: str) -> list[Row]:
    """The list of objects in `field`, such as messages."""
    if field not in row or row[field] is None:
        raise missing_field(field, present(row))
    value = listed(row[field], field)
    for number, item in enumerate(value):
        if not isinstance(item, Mapping):
            raise DataError(
                translate(
                    "{field}[{number}] is of type {kind}; it must be an object: {item!r:.80}",
                    field=field,
                    number=number,
                    item=item,
                    kind=type(item).__name__,
                )
            )
    return list(value)


def question_and_more(row: Row, question: str, more: str) -> str:
    """Both texts with a line break between them, even if the second is empty."""
    return f"{text(row, question)}\n{text_or_empty(row, more)}"


def one_turn(question: str, answer: str, system: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """A conversation of one question and one answer."""
    turn = {"input": question, "output": answer}
    return {"conversation": [turn if system is None else {"system": system, **turn}]}


def is_trained(part: Row) -> bool:
    """Whether the answer of a turn or message is supervised: yes, unless one of its fields says no."""
    if part.get("train_detail"):
        raise DataError(
            translate(
                "the field 'train_detail' marks parts of an answer, and answers are trained whole: "
                'split the answer, or mark all of it with "train": true or false'
            )
        )
    trained = all(flag(part, name) for name in TRAINED_FLAGS if name in part)
    return trained and not any(flag(part, name, default=False) for name in MASKED_FLAGS if name in part)


def flag(part: Row, name: str, default: bool = True) -> bool:
    """The field as a bool: from a bool, a number, or their texts; `default` if it is missing."""
    value = part.get(name)
    if _is_missing(value):
        return default
    word = str(value).strip().lower()
    if word in _YES or word in _NO:
        return word in _YES
    if isinstance(value, (int, float)) and value > 0:
        say_once(
            "the field {name!r} holds weights of answers, such as {value}: every weight above 0 counts as 1",
            name=name,
            value=value,
        )
        return True
    raise DataError(
        translate(
            "the field {name!r} is {value!r:.40}: write true or false, or a weight of 0 or 1",
            name=name,
            value=value,
        )
    )
