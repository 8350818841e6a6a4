"""Tokenise pairs of a preferred and a rejected answer.

    row        {"prompt": [messages], "chosen": [message], "rejected": [message]}       by dataset_map_fn
    samples    prompt + chosen, prompt + rejected     rows 2n and 2n + 1 of the token store
    units      a pair: both samples of one row, always in the same item
    item       input_ids [c c c r r], labels [- - c - r], cumulative_len [0, 3, 5]      chosen, rejected, ...

The tokenizer's chat template formats the messages; only the answer is supervised.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xtuner.dataset.encoding import fingerprint
from xtuner.dataset.encoding.pipeline import Encoding, MapFn, apply_map_fn
from xtuner.dataset.huggingface import find_map_fn, store_key, write_rows
from xtuner.dataset.items import packing
from xtuner.dataset.items.packed_dataset import PackedDataset
from xtuner.dataset.items.store import FAULTS, StoreWriter, TokenStore, open_or_write
from xtuner.dataset.items.summary import item_stats, log_summary
from xtuner.dataset.map_fns.fields import items
from xtuner.dataset.reading.load import load_dataset
from xtuner.dataset.reading.selection import Selection, take_some, take_split
from xtuner.errors import ConfigError, DataError, NotFoundError
from xtuner.language import translate
from xtuner.log import logger

Row = Mapping[str, Any]
ANSWERS = ("chosen", "rejected")


def build_preference_dataset(
    dataset: Any,
    tokenizer: Any,
    max_length: int,
    dataset_map_fn: MapFn | str | None = None,
    is_dpo: bool = True,
    is_reward: bool = False,
    reward_token_id: int = -1,
    num_proc: int = 32,
    use_varlen_attn: bool = False,
    max_packed_length: int = 16384,
    shuffle_before_pack: bool = True,
) -> PackedDataset:
    """Items of one pair, or with `use_varlen_attn` of as many pairs as fit into `max_packed_length` tokens.

    `dataset`: rows, or rows by split, of which "train" is used. A prompt with its answer is cut at
    `max_length` tokens. Pairs are left out and counted if an answer cannot be used, or if they are too long
    to be packed. `num_proc` has no effect: the tokenizer runs its own threads.
    """
    if is_reward or not is_dpo:
        raise ConfigError(
            translate(
                "build_preference_dataset makes pairs for DPO only, but has is_dpo={is_dpo}, "
                "is_reward={is_reward}, reward_token_id={token}: set is_dpo = True, is_reward = False",
                is_dpo=is_dpo,
                is_reward=is_reward,
                token=reward_token_id,
            )
        )
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            translate(
                "build_preference_dataset formats messages with the tokenizer's chat_template, but this "
                "tokenizer has none: give it one, such as tokenizer = dict(..., chat_template=...)"
            )
        )
    rows = take_some(take_split(dataset, "train"), None, 0)
    map_fn = find_map_fn(dataset_map_fn, "dataset_map_fn", {})
    answers = _Answers(rows.sources, rows.taken, rows.part, map_fn)
    key = fingerprint.fingerprint_value(
        ["pairs", store_key(rows, Encoding(tokenizer, max_length, dataset_map_fn=map_fn))]
    )
    store = open_or_write(key, lambda writer: _write(answers, Encoding(tokenizer, max_length), writer))
    units = _pairs(store)
    if num_lost := len(store) - len(units.order):
        logger.warning(translate("data: %d pairs left out, because one of their answers is"), num_lost)
    limit = max_packed_length if use_varlen_attn else None
    plan = _pack(units, store, limit, shuffle_before_pack) if limit else units
    stats = item_stats(_stats_of(store, plan), len(plan), limit)
    log_summary(stats, max_length, limit, store.folder / FAULTS)
    return PackedDataset(store, plan, stats, functools.partial(_place, rows))


@dataclass(frozen=True)
class _Answers(Selection):
    """Prompts with one answer each: those of row n have the numbers 2n and 2n + 1."""

    map_fn: MapFn | None = None
    counts: Counter[str] = field(default_factory=Counter)

    def unread(self) -> Iterator[tuple[int, Callable[[], Row]]]:
        for number, read in super().unread():
            self.counts["rows"] += 1
            try:
                pair = self._pair(number, read)
            except DataError as error:
                yield 2 * number, functools.partial(_raise, error)
                continue
            for side, conversation in enumerate(pair):
                yield 2 * number + side, functools.partial(dict, conversation=conversation)

    def place(self, number: int) -> str:
        """The position of the row of an answer, for messages."""
        return super().place(number // 2)

    def quick_len(self) -> int | None:
        """The number of answers, or None if a file would have to be parsed to count its rows."""
        num_rows = super().quick_len()
        return None if num_rows is None else 2 * num_rows

    def _pair(self, number: int, read: Callable[[], Row]) -> list[list[Row]]:
        row = read()
        try:
            if self.map_fn is not None:
                row = apply_map_fn(self.map_fn, row, "dataset_map_fn")
            prompt = [{**message, "loss": False} for message in items(row, "prompt")]
            return [[{"messages": [*prompt, *items(row, name)]}] for name in ANSWERS]
        except DataError as error:
            raise DataError(f"{super().place(number)}: {error}") from None


def _raise(error: Exception) -> Row:
    raise error


def _write(answers: _Answers, settings: Encoding, writer: StoreWriter) -> dict[str, Any]:
    about = write_rows(answers, settings, writer)
    about["stats"]["rows"] = answers.counts["rows"]
    return about


def _place(rows: Selection, number: int) -> str:
    return rows.place(number // 2)


def _stats_of(store: TokenStore, plan: packing.PackPlan) -> dict[str, Any]:
    """The counts of the store without the samples that are in no item."""
    stats = dict(store.about["stats"])
    for sample in np.setdiff1d(np.arange(len(store)), plan.order):
        ids, mask = store.sample(int(sample))
        stats["samples"] -= 1
        stats["tokens"] -= len(ids)
        stats["trained"] -= int(mask.sum())
    return stats


def _pairs(store: TokenStore) -> packing.PackPlan:
    """The complete pairs, each as a unit of two samples."""
    rows = store.rows.astype(np.int64)
    first = np.flatnonzero((rows[:-1] % 2 == 0) & (rows[1:] == rows[:-1] + 1))
    if not len(first):
        raise DataError(translate("no row has two answers to train on"))
    return packing.PackPlan(np.stack([first, first + 1], 1).ravel(), np.arange(0, 2 * len(first) + 1, 2))


def _pack(units: packing.PackPlan, store: TokenStore, limit: int, shuffle: bool) -> packing.PackPlan:
    lengths = units.lengths(store.lengths)
    if too_long := np.flatnonzero(lengths > limit).tolist():
        if len(too_long) == len(units):
            what = "max_packed_length is {limit}, but the shortest pair has {length} tokens: raise it"
            raise DataError(translate(what, limit=limit, length=lengths.min()))
        what = translate("data: %d pairs of more than max_packed_length = %d tokens left out")
        logger.warning(what, len(too_long), limit)
        fitting = np.flatnonzero(lengths <= limit)
        units, lengths = packing.plan_units(units, packing.plan_chosen(fitting)), lengths[fitting]
    plan = packing.plan_packs(lengths, limit) if shuffle else packing.plan_in_order(lengths, limit)
    return packing.plan_units(units, plan)


def load_jsonl_dataset(
    data_files: str | Sequence[str] | None = None, data_dir: str | None = None, suffix: str | None = None
) -> Any:
    """The rows of JSON-lines files: `data_files`, or all files in `data_dir` that end in `suffix`."""
    if (data_files is None) == (data_dir is None):
        raise ConfigError(
            translate("load_jsonl_dataset takes either data_files or data_dir: give one of them")
        )
    if data_dir is not None:
        folder, ending = Path(data_dir).expanduser(), suffix or ".jsonl"
        data_files = (
            sorted(str(file) for file in folder.iterdir() if file.name.endswith(ending))
            if folder.is_dir()
            else []
        )
        if not data_files:
            what = "load_jsonl_dataset: no file of {folder} ends in {ending!r}"
            raise NotFoundError(translate(what, folder=data_dir, ending=ending))
    files = [data_files] if isinstance(data_files, str) else list(data_files or ())
    return load_dataset("json", data_files=files, split="train")


def intel_orca_dpo_map_fn(example: Row) -> dict[str, Any]:
    """Rows of Intel/orca_dpo_pairs: `system`, `question`, `chosen`, `rejected`, all text."""
    system = [{"role": "system", "content": example["system"]}] if example["system"] else []
    return {
        "prompt": [*system, {"role": "user", "content": example["question"]}],
        **{name: [{"role": "assistant", "content": example[name]}] for name in ANSWERS},
    }


def orpo_dpo_mix_40k_map_fn(example: Row) -> dict[str, Any]:
    """Rows whose `chosen` and `rejected` are whole dialogues: the last message is the answer."""
    chosen, rejected = items(example, "chosen"), items(example, "rejected")
    return {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}
