"""What a data file holds: its format, and how long its rows are in tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xtuner.dataset import map_fns
from xtuner.dataset.map_fns.auto import Format, auto_map_fn, find_format
from xtuner.dataset.map_fns.pretrain import pretrain_map_fn
from xtuner.dataset.reading.load import load_dataset
from xtuner.dataset.reading.selection import take_split
from xtuner.errors import DataError
from xtuner.utils import PROMPT_TEMPLATE
from xtuner.utils.templates import is_tokenizers_own, render_prompt

# Rows that are measured; more change the result by less than a step of max_length.
SAMPLE = 2000
# What a template puts around a turn that is the tokenizer's own.
_AROUND_TURN = 12
_MAX_QUESTION = 200


@dataclass(frozen=True)
class DataFacts:
    """A data file; `lengths` are those of the rows that were measured, sorted."""

    path: str
    num_rows: int
    format_name: str
    why_format: str
    map_fn: str | None  # its name in `xtuner.dataset.map_fns`, "auto", or None for rows that need none
    is_text: bool
    lengths: list[int]
    questions: list[str]

    @property
    def num_tokens(self) -> float:
        """Of all rows, by those measured."""
        return sum(self.lengths) / len(self.lengths) * self.num_rows

    def length_of(self, share: float) -> int:
        """The length that this share of the rows does not exceed."""
        return self.lengths[min(len(self.lengths) - 1, int(share * len(self.lengths)))]


def look_at_data(path: str, tokenizer: Any, template: str) -> DataFacts:
    """The facts of the file, its rows measured with `tokenizer` under the prompt template of that name."""
    rows = take_split(load_dataset(path), "train")
    if len(rows) == 0:
        raise DataError(f"the data is empty: there are no rows in {path}")
    found = find_format(rows.row(0))
    if found.name == "chosen_rejected":
        raise DataError(
            f"{path} holds pairs of chosen and rejected answers, and training on preferences is not "
            "available in this version; keep only the chosen answers to train on them"
        )
    measured = [dict(rows.row(number)) for number in _some(len(rows))]
    map_fn = auto_map_fn if found.renames else found.map_fn
    conversations = [map_fn(row)["conversation"] for row in measured]
    lengths = sorted(_length(turns, tokenizer, template) for turns in conversations)
    is_text = found.map_fn is pretrain_map_fn
    return DataFacts(
        path=path,
        num_rows=len(rows),
        format_name=found.name,
        why_format=found.why,
        map_fn=_name_to_write(found, measured, conversations),
        is_text=is_text,
        lengths=lengths,
        questions=_questions(conversations, is_text),
    )


def _some(count: int) -> Sequence[int]:
    """The numbers of the rows that are measured: all, or as many as suffice from everywhere in the file."""
    return range(count) if count <= SAMPLE else sorted(random.Random(0).sample(range(count), SAMPLE))


def _name_to_write(found: Format, rows: list[dict[str, Any]], conversations: list[Any]) -> str | None:
    """The function that configs can import and that makes `conversations` of `rows`; "auto" for none."""
    if [row.get("conversation") for row in rows] == conversations:
        return None
    name = "auto" if found.renames else f"{found.name}_map_fn"
    map_fn = getattr(map_fns, name, None)
    return name if map_fn is not None and _makes(map_fn, rows, conversations) else "auto"


def _makes(map_fn: Any, rows: list[dict[str, Any]], conversations: list[Any]) -> bool:
    try:
        return all(
            map_fn(row)["conversation"] == turns for row, turns in zip(rows, conversations, strict=True)
        )
    except DataError:  # the format allows for more than this function, such as rows without "input"
        return False


def _length(turns: list[dict[str, Any]], tokenizer: Any, template: str) -> int:
    """Tokens of a conversation, as training will see it or a little more."""
    form = PROMPT_TEMPLATE[template]
    texts, around = [], 1
    for number, turn in enumerate(turns, 1):
        asked, system = str(turn.get("input", "")), str(turn.get("system") or "")
        if is_tokenizers_own(form):
            texts += [system, asked]
            around += _AROUND_TURN
        else:
            texts.append(render_prompt(form, asked, system, number))
            around += 1
        texts.append(str(turn.get("output", "")) + str(form.get("SUFFIX", "")))
    return around + sum(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"])) if texts else 0


def _questions(conversations: list[list[dict[str, Any]]], is_text: bool) -> list[str]:
    """Two short questions of the data, or beginnings of its texts, to ask while training."""
    found: list[str] = []
    for turns in conversations:
        if not turns:
            continue
        text = str(turns[0].get("output" if is_text else "input", "")).strip()
        text = text[:40].strip() if is_text else text
        if text and len(text) <= _MAX_QUESTION and text not in found:
            found.append(text)
        if len(found) == 2:
            break
    return found
