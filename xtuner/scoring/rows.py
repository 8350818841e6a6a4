"""What is scored of a row, in any format that training reads.

{"prompt", "chosen", "rejected"}          "pair"     the chosen and the rejected answer, each after the prompt
{"prompt", "completions": [...]}          "list"     each answer after the prompt
{"messages"}, {"prompt", "completion"}    "single"   the whole conversation
{"text"}                                  "single"   the text, without a template
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xtuner.dataset.encoding.pipeline import apply_map_fn
from xtuner.dataset.map_fns.auto import auto_map_fn, find_format, in_known_names
from xtuner.dataset.map_fns.auto_preferences import find_preference_form
from xtuner.dataset.map_fns.fields import text
from xtuner.dataset.map_fns.openai import tools_of
from xtuner.dataset.map_fns.preferences import DIALOGUES
from xtuner.dataset.map_fns.pretrain import pretrain_map_fn
from xtuner.dataset.map_fns.sharegpt import messages_of
from xtuner.dataset.map_fns.template import chat_messages_map_fn
from xtuner.dataset.preferences.answers import read_compared
from xtuner.errors import DataError
from xtuner.language import translate

Row = Mapping[str, Any]
Dialogue = Mapping[str, Any]
"""A conversation: `messages`, and `tools` if it has any."""

PAIR, LIST, SINGLE = "pair", "list", "single"


@dataclass(frozen=True)
class Scored:
    """The texts of a row: plain ones, or dialogues for the chat template."""

    kind: str
    texts: Sequence[str | Dialogue]


def read_scored(row: Row) -> Scored:
    """What is scored of `row`; DataError if it is in no known format."""
    if (kind := _kind(row)) != SINGLE:
        _, map_fn, _ = find_preference_form(row)
        compared = read_compared(apply_map_fn(map_fn, row, "dataset_map_fn"))
        texts = [compared.dialogue(number, "answer") for number in range(len(compared.answers))]
        return Scored(kind, texts)
    if name := next((name for name in DIALOGUES if _has_messages(row.get(name))), None):
        messages = messages_of(row, name)
        return Scored(SINGLE, [{"messages": messages, "tools": tools_of(row)}])
    if find_format(row).map_fn is pretrain_map_fn:
        return Scored(SINGLE, [text(in_known_names(row), "text")])
    conversation = chat_messages_map_fn(apply_map_fn(auto_map_fn, row, "dataset_map_fn"))["conversation"]
    if not conversation:
        raise DataError(translate("the row has no conversation"))
    return Scored(SINGLE, conversation)


def _kind(row: Row) -> str:
    try:
        form, _, _ = find_preference_form(row)
    except DataError:
        return SINGLE
    return {"pairs": PAIR, "ranked": LIST}.get(form, SINGLE)


def _has_messages(value: Any) -> bool:
    """Whether `value` is a list of messages, which may end with any of them."""
    first = value[0] if isinstance(value, (list, tuple)) and value else None
    return isinstance(first, Mapping) and bool({"role", "from"} & first.keys())
