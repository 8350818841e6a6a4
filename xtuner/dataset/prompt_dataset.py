"""Prompts to sample answers to, from the rows of any instruction data.

    row        {"question": "2 + 2?", "answer": "4", "level": 1}
    prompt     ids of all before the last answer, with the generation prompt at their end
    reference  "4", the last answer; None for a row without one

The prompt is what chat makes of the same conversation. A prompt is never cut: longer ones are left out.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from xtuner.dataset.encoding.asked import Asked, asked_of, prompt_map_fn
from xtuner.dataset.encoding.chat_template import ChatTemplate
from xtuner.dataset.encoding.pipeline import Encoding, MapFn
from xtuner.dataset.huggingface import find_map_fn, store_key, write_rows
from xtuner.dataset.items import packing
from xtuner.dataset.items.packed_dataset import PackedDataset, checked_index
from xtuner.dataset.items.store import open_or_write
from xtuner.dataset.items.summary import describe_dropped, item_stats
from xtuner.dataset.map_fns import DATASET_FORMAT_MAPPING
from xtuner.dataset.map_fns.auto import auto_map_fn
from xtuner.dataset.map_fns.template import chat_messages_map_fn
from xtuner.dataset.reading.selection import Part, take_some, take_split
from xtuner.errors import ConfigError, DataError
from xtuner.language import translate
from xtuner.log import logger


@dataclass(frozen=True)
class Prompt:
    """A prompt, the row that it is from and the place of that."""

    ids: list[int]
    asked: Asked
    row: Mapping[str, Any]
    place: str


def build_prompt_dataset(
    dataset: Any,
    tokenizer: Any,
    max_length: int,
    dataset_map_fn: MapFn | str | None = "auto",
    template_map_fn: MapFn | str | None = None,
    max_dataset_length: int | None = None,
    split: str | None = "train",
    held_out: float = 0.0,
    take_held_out: bool = False,
    seed: int = 0,
    strict: bool = False,
) -> PromptDataset:
    """The prompts of the rows of `dataset` that have at most `max_length` tokens.

    The arguments are those of `process_hf_dataset`; None and "auto" recognise the format of the rows, which
    need no answer then.
    """
    if tokenizer is None or max_length < 1:
        what = "build_prompt_dataset needs a tokenizer, and a max_length of at least 1: it is {max_length}"
        raise ConfigError(translate(what, max_length=max_length))
    map_fn = find_map_fn(dataset_map_fn, "dataset_map_fn", DATASET_FORMAT_MAPPING) or auto_map_fn
    template = find_map_fn(template_map_fn, "template_map_fn", {})
    settings = Encoding(
        tokenizer,
        None,
        functools.partial(prompt_map_fn, map_fn=map_fn),
        template,
        input_ids_with_output=False,
        strict=strict,
    )
    rows = take_some(take_split(dataset, split), max_dataset_length, seed)
    if held_out:
        rows = dataclasses.replace(rows, part=Part(held_out, take_held_out))
    store = open_or_write(store_key(rows, settings), lambda writer: write_rows(rows, settings, writer))
    lengths = np.asarray(store.lengths)
    kept = np.flatnonzero((lengths > 0) & (lengths <= max_length))
    if len(lengths) > len(kept):
        what = translate("data: %d prompts are left out, empty or longer than max_length = %d")
        logger.warning(what, len(lengths) - len(kept), max_length)
    if not len(kept):
        what = "no prompt has at most max_length = {max_length} tokens, the shortest has {shortest}"
        raise DataError(translate(what, max_length=max_length, shortest=lengths.min()))
    # A prompt needs no answer.
    without = {"empty_answers": 0, "empty_answer_rows": []}
    stats = item_stats({**store.about["stats"], **without}, len(kept), None)
    if stats.get("dropped"):
        logger.warning(translate("data: rows are left out:%s"), describe_dropped(stats))
    logger.info(translate("data: %d prompts of at most %d tokens"), len(kept), lengths[kept].max())
    return PromptDataset(
        store, packing.plan_chosen(kept), stats, rows.place, rows.row, map_fn, tokenizer, template
    )


class PromptDataset(PackedDataset):
    """Items of one prompt each."""

    def __init__(
        self,
        store: Any,
        plan: packing.PackPlan,
        stats: Mapping[str, Any],
        place: Callable[[int], str],
        columns: Callable[[int], Mapping[str, Any]],
        map_fn: MapFn,
        tokenizer: Any,
        template_map_fn: MapFn | None,
    ) -> None:
        super().__init__(store, plan, stats, place, columns)
        self._map_fn, self._template = map_fn, template_map_fn
        self.tokenizer = tokenizer

    def prompt(self, index: int) -> Prompt:
        """The prompt of item `index`; DataError if its row asks nothing."""
        (number,) = self.source_rows(index)
        ids, _ = self.store.sample(int(self.plan[checked_index(index, len(self))][0]))
        row = self.row(number)
        try:
            asked = asked_of(row, self._map_fn)
        except DataError as error:
            raise DataError(f"{self.place(number)}: {error}") from error
        return Prompt(ids.tolist(), asked, row, self.place(number))

    @functools.cached_property
    def stop_words(self) -> list[str]:
        """The texts that end an answer, as in chat: those of the prompt template."""
        if self._template is chat_messages_map_fn:
            end = ChatTemplate(self.tokenizer).end_of_turn()
            return [end] if end else []
        template = getattr(self._template, "keywords", {}).get("template") or {}
        return list(template.get("STOP_WORDS") or [])
