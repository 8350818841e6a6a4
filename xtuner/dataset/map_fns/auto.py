"""The format of a row, recognised by its fields: `dataset_map_fn='auto'`.

    {"instruction", "input", "output"}                  alpaca
    {"messages": [{"role", "content"}, ...]}            openai
    {"conversations": [{"from", "value"}, ...]}         sharegpt
    {"Question", "Answer"}, {"问题", "回答"}             question and answer, under other names
    {"question", "reply"}                               none: an error that names the nearest

The first entry of FORMATS that fits is used; a null field counts as missing, as tables fill the fields of
other rows with null. The format and the reason are logged once.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from xtuner.dataset.map_fns.alpaca import alpaca_map_fn
from xtuner.dataset.map_fns.alpaca_zh import alpaca_zh_map_fn
from xtuner.dataset.map_fns.arxiv import arxiv_map_fn
from xtuner.dataset.map_fns.chosen_rejected import chosen_rejected_map_fn
from xtuner.dataset.map_fns.colors import colors_map_fn
from xtuner.dataset.map_fns.completion import completion_map_fn, continued
from xtuner.dataset.map_fns.default import default_map_fn
from xtuner.dataset.map_fns.fields import Row, items, text
from xtuner.dataset.map_fns.llava import llava_map_fn
from xtuner.dataset.map_fns.msagent_react import msagent_react_map_fn
from xtuner.dataset.map_fns.oasst1 import oasst1_map_fn
from xtuner.dataset.map_fns.openai import openai_map_fn
from xtuner.dataset.map_fns.openorca import openorca_map_fn
from xtuner.dataset.map_fns.pretrain import pretrain_map_fn
from xtuner.dataset.map_fns.sharegpt import sharegpt_map_fn
from xtuner.dataset.map_fns.sql import sql_map_fn
from xtuner.errors import DataError
from xtuner.language import translate
from xtuner.log import say_once


def auto_map_fn(example: Row) -> dict:
    """The conversation of a row, by the map function of the format that fits its fields."""
    row_format = find_format(example)
    say_once(row_format.announcement, logging.INFO, name=row_format.name, fields=row_format.field_names)
    return row_format.map_fn(in_known_names(example) if row_format.renames else example)


@dataclass(frozen=True)
class Format:
    """A format of rows: the fields it must have, and further conditions."""

    name: str
    fields: tuple[str, ...]
    map_fn: Callable[[Row], dict]
    also: str = ""
    holds: Callable[[Row], bool] = lambda row: True
    renames: bool = False  # the row has other names of the fields

    def fits(self, row: Row) -> bool:
        return all(row.get(name) is not None for name in self.fields) and self.holds(row)

    # Cached: built for every row, though logged only once.
    @cached_property
    def announcement(self) -> str:
        return f"dataset_map_fn = 'auto': rows are in the format {{name}}, as {self.reason}"

    @cached_property
    def field_names(self) -> str:
        return ", ".join(map(repr, self.fields))

    @cached_property
    def of_other_spelling(self) -> Format:
        return dataclasses.replace(self, renames=True)

    @property
    def reason(self) -> str:
        return f"they have {{fields}}, {self.also}" if self.also else "they have {fields}"

    @property
    def why(self) -> str:
        return translate(self.reason, fields=self.field_names)


def find_format(row: Row) -> Format:
    """The format of `row`; DataError with its fields and the nearest formats if none fits."""
    for candidate in FORMATS:
        if candidate.fits(row):
            return candidate
    known = in_known_names(row)
    for candidate in FORMATS if known != row else ():
        if candidate.fits(known):
            spelt = [f"{name!r} -> {new!r}" for name, new in zip(row, known, strict=True) if name != new]
            say_once(
                "dataset_map_fn = 'auto': fields are renamed: {renamed}",
                logging.INFO,
                renamed=", ".join(spelt),
            )
            return candidate.of_other_spelling
    present = [name for name in row if row[name] is not None]
    near = sorted(
        (candidate for candidate in FORMATS if set(candidate.fields) & set(present)),
        key=lambda candidate: len(set(candidate.fields) - set(present)),
    )[:3]
    nearest = translate("; ").join(candidate.name + _lack(candidate, present) for candidate in near)
    raise DataError(
        translate(
            "dataset_map_fn = 'auto' knows no format with the fields {names}.{nearest} Rename the fields "
            "with rename_maps, or give a dataset_map_fn that makes {{'conversation': [...]}} of a row",
            names=", ".join(map(repr, present)) or translate("(none)"),
            nearest=translate(" Nearest: {formats}.", formats=nearest) if nearest else "",
        )
    )


def in_known_names(row: Row) -> Row:
    """The row with its fields renamed to those of the formats, despite capitals, spaces or language."""
    plain = [str(name).strip().lower().replace(" ", "_") for name in row]
    names = [SPELLINGS.get(name, name) for name in plain]
    if len(set(names)) < len(names):  # two fields would be one
        return row
    return dict(zip(names, row.values(), strict=True))


def _lack(candidate: Format, present: list[str]) -> str:
    missing = [name for name in candidate.fields if name not in present]
    if missing:
        return translate(" (lacks {names})", names=", ".join(map(repr, missing)))
    return translate(" (needs {also})", also=translate(candidate.also))


def _first(row: Row, field: str) -> Any:
    """The first object of the list in `field`; an empty one if there is none."""
    value = row[field]
    first = value[0] if isinstance(value, (list, tuple)) and value else {}
    return first if isinstance(first, dict) else {}


def _speaks(field: str, *keys: str) -> Callable[[Row], bool]:
    return lambda row: set(keys) <= _first(row, field).keys()


def _with_tool_marks(row: Row) -> bool:
    return "<|startofthink|>" in str(row["conversations"])


def _alpaca(example: Row) -> dict:
    """As alpaca, with optional `input`, `system` and earlier turns in `history`."""
    conversation = alpaca_map_fn({"input": "", **{k: v for k, v in example.items() if v is not None}})
    turns = conversation["conversation"]
    history = example.get("history") or []
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in history):
        raise DataError(
            translate(
                "the field 'history' must be a list of [question, answer] pairs: {history!r:.80}",
                history=history,
            )
        )
    earlier = [
        {"input": text({"question": question}, "question"), "output": text({"answer": answer}, "answer")}
        for question, answer in history
    ]
    turns = [*earlier, *turns] if turns else []
    if turns and example.get("system"):
        turns[0] = {"system": text(example, "system"), **turns[0]}
    return {"conversation": turns}


def _conversation(example: Row) -> dict:
    return {"conversation": items(example, "conversation")}


def _pair(question: str, answer: str) -> Callable[[Row], dict]:
    def pair_map_fn(example: Row) -> dict:
        return continued(example, question, answer)

    return pair_map_fn


SPELLINGS = {
    **dict.fromkeys(("问题", "提问", "问", "用户"), "question"),
    **dict.fromkeys(("回答", "答案", "答", "回复", "助手"), "answer"),
    **dict.fromkeys(("指令", "任务"), "instruction"),
    "输入": "input",
    "输出": "output",
    "系统": "system",
    "文本": "text",
    "q": "question",
    "a": "answer",
}
"""Other names of fields, in lower case."""

FORMATS = [
    Format("conversation", ("conversation",), _conversation),
    Format("openai", ("messages",), openai_map_fn, "of messages with 'role'", _speaks("messages", "role")),
    Format("chosen_rejected", ("chosen", "rejected"), chosen_rejected_map_fn),
    Format(
        "msagent_react",
        ("conversations",),
        msagent_react_map_fn,
        "with <|startofthink|> in them",
        _with_tool_marks,
    ),
    Format("llava", ("image", "conversations"), llava_map_fn, "", _speaks("conversations", "from", "value")),
    Format(
        "sharegpt",
        ("conversations",),
        sharegpt_map_fn,
        "of messages with 'from' and 'value'",
        _speaks("conversations", "from", "value"),
    ),
    Format(
        "sharegpt",
        ("conversations",),
        sharegpt_map_fn,
        "of messages with 'role' and 'content'",
        _speaks("conversations", "role", "content"),
    ),
    Format("alpaca", ("instruction", "output"), _alpaca),
    Format("alpaca_zh", ("instruction_zh", "input_zh", "output_zh"), alpaca_zh_map_fn),
    Format("completion", ("prompt", "completion"), completion_map_fn),
    Format("openorca", ("system_prompt", "question", "response"), openorca_map_fn),
    Format(
        "sql",
        ("context", "question", "answer"),
        sql_map_fn,
        "the first with CREATE TABLE in it",
        lambda row: "CREATE TABLE" in str(row["context"]).upper(),
    ),
    Format("arxiv", ("abstract", "title"), arxiv_map_fn),
    Format("colors", ("description", "color"), colors_map_fn),
    Format("default", ("input", "output"), default_map_fn),
    *(
        Format(f"{question} and {answer}", (question, answer), _pair(question, answer))
        for question in ("question", "prompt", "query", "instruction")
        for answer in ("answer", "response")
    ),
    Format(
        "oasst1",
        ("text",),
        oasst1_map_fn,
        "with ### Human: and ### Assistant: in it",
        lambda row: isinstance(row["text"], str) and row["text"].lstrip().startswith("### Human:"),
    ),
    Format("pretrain", ("text",), pretrain_map_fn, "a text to be learnt as a whole"),
]
"""In the order of trial."""
