"""What a data file holds for a method on preferences: the form of its rows, the lengths of all answers."""

from __future__ import annotations

from typing import Any

import numpy as np

from xtuner.convert.served import jinja
from xtuner.dataset.encoding.pipeline import Encoding
from xtuner.dataset.map_fns.auto_preferences import auto_preference_map_fn, find_preference_form
from xtuner.dataset.preferences.answers import Compared, read_compared
from xtuner.dataset.preferences.samples import Reading, write_answers
from xtuner.dataset.reading.selection import Selection
from xtuner.errors import DataError
from xtuner.language import translate
from xtuner.log import logger
from xtuner.proposal.data import DataFacts, Measured, Row, look_at_data, read_some, short_ones
from xtuner.proposal.images import images_of_rows, look_at_images
from xtuner.proposal.methods import prefers, rewards
from xtuner.proposal.prompts import look_at_prompts
from xtuner.utils import PROMPT_TEMPLATE
from xtuner.utils.templates import is_tokenizers_own


def look_at(
    path: str, tokenizer: Any, template: str, method: str | None, processor: str | None = None
) -> DataFacts:
    """The facts of the file, as `method` reads it; without one, pairs are for a method on preferences.

    `processor`: the folder of a model that trains with images, if they are not pairs.
    """
    if rewards(method):
        return look_at_prompts(path, tokenizer, template)
    rows, numbers, read = read_some(path)
    are_pairs = all(read[0].get(name) is not None for name in ("chosen", "rejected"))
    if prefers(method) or (method is None and are_pairs):
        return _look_at_pairs(
            path, Selection(rows.sources, np.array(numbers)), len(rows), read, tokenizer, template
        )
    if are_pairs:
        what = translate(
            "%s holds pairs of answers: --method %s trains on the chosen ones alone, --method dpo on both"
        )
        logger.warning(what, path, method)
    if processor is not None and images_of_rows(read):
        return look_at_images(path, len(rows), read, processor, template)
    return look_at_data(path, tokenizer, template)


def _look_at_pairs(
    path: str, rows: Selection, num_rows: int, read: list[Row], tokenizer: Any, template: str
) -> DataFacts:
    try:
        name, _, fields = find_preference_form(read[0])
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    chat_template = _chat_template(tokenizer, template)
    is_usual = all(map(_is_usual, read))
    measured = Measured()
    reading = Reading(None if is_usual else auto_preference_map_fn, "answer")
    write_answers(rows, reading, Encoding(tokenizer, None, keep_thinking=True), None, measured)
    return DataFacts(
        path=path,
        num_rows=num_rows,
        format_name=translate("{form} of answers", form=name),
        why_format=translate("they have {fields}", fields=", ".join(map(repr, fields))),
        map_fn=None if is_usual else "auto",
        is_text=False,
        lengths=sorted(measured.lengths),
        questions=short_ones(_questions(read)),
        prompts=sorted(measured.prompts),
        is_pairs=True,
        samples_per_row=len(measured.lengths) / len(rows),
        chat_template=chat_template,
    )


def _chat_template(tokenizer: Any, template: str) -> str | None:
    """The prompt template as a chat template, given to the tokenizer; None for the tokenizer's own."""
    found = PROMPT_TEMPLATE[template]
    if is_tokenizers_own(found):
        return None
    tokenizer.chat_template = jinja(found, tokenizer)
    return tokenizer.chat_template


def _is_usual(row: Row) -> bool:
    """Whether the row is in the form that needs no map function."""
    return all(
        isinstance(row.get(name), list) and all(isinstance(m, dict) and "role" in m for m in row[name])
        for name in ("prompt", "chosen", "rejected")
    )


def _questions(read: list[Row]) -> list[str]:
    """The last question of each prompt without a dialogue before it."""
    found = []
    for row in read:
        compared = _compared(row)
        if compared is not None and [message["role"] for message in compared.prompt] == ["user"]:
            found.append(compared.prompt[0]["content"].strip())
    return found


def _compared(row: Row) -> Compared | None:
    try:
        return read_compared(auto_preference_map_fn(row))
    except DataError:  # reported where the rows are measured, if there are many
        return None
