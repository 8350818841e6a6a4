"""From rows to compared answers: pairs for DPO, ORPO and reward models, single answers with labels for KTO.

    row        {"prompt": [messages], "chosen": [message], "rejected": [message]}       by dataset_map_fn
    samples    prompt + chosen, prompt + rejected               of the token store, see preferences/samples.py
    units      a pair: samples of one row, never apart          preferences/units.py
    item       input_ids [c c c r r], labels [- - c - r], cumulative_len [0, 3, 5]      chosen, rejected, ...

The tokenizer's chat template formats the messages; only the answer is supervised.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xtuner.dataset.encoding import fingerprint
from xtuner.dataset.encoding.pipeline import Encoding, MapFn
from xtuner.dataset.huggingface import find_map_fn, store_key
from xtuner.dataset.items import packing
from xtuner.dataset.items.packed_dataset import Item, PackedDataset, checked_index
from xtuner.dataset.items.store import TokenStore, open_or_write
from xtuner.dataset.items.summary import log_packed
from xtuner.dataset.map_fns.auto_preferences import PREFERENCE_FORMATS, auto_preference_map_fn
from xtuner.dataset.map_fns.preferences import (
    hh_rlhf_map_fn,
    intel_orca_dpo_map_fn,
    labelled_map_fn,
    orpo_dpo_mix_40k_map_fn,
    pairs_map_fn,
    ranked_map_fn,
    ultrafeedback_map_fn,
)
from xtuner.dataset.preferences.answers import LOSS_ON
from xtuner.dataset.preferences.samples import MIXED, SWAPPED, Reading, write_answers
from xtuner.dataset.preferences.units import (
    RANKED_PAIRS,
    count_single,
    is_good,
    labelled_units,
    pack_units,
    pair_units,
)
from xtuner.dataset.reading.load import load_dataset
from xtuner.dataset.reading.selection import Selection, take_some, take_split
from xtuner.errors import ConfigError, NotFoundError, did_you_mean
from xtuner.language import translate
from xtuner.log import logger

__all__ = [
    "auto_preference_map_fn",
    "build_preference_dataset",
    "build_unpaired_dataset",
    "hh_rlhf_map_fn",
    "intel_orca_dpo_map_fn",
    "labelled_map_fn",
    "load_jsonl_dataset",
    "orpo_dpo_mix_40k_map_fn",
    "pairs_map_fn",
    "ranked_map_fn",
    "ultrafeedback_map_fn",
]


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
    ranked_pairs: str = "all",
    loss_on: str = "answer",
    strict: bool = False,
) -> PackedDataset:
    """Items of one pair, or with `use_varlen_attn` of as many pairs as fit into `max_packed_length` tokens.

    `dataset`: rows, or those by split, of which "train" is taken. `dataset_map_fn`: None for rows in the form
    above, "auto" for those of known data sets. A prompt with its answer is cut at `max_length` tokens. Pairs
    are left out and counted if an answer cannot be used, or if they are too long to be packed; with `strict`
    the first row with a fault is an error.

    With `is_dpo` (DPO, ORPO and the like) the tokens of an answer are supervised: all messages after the
    prompt, by `loss_on` only the "last" one, or "all" answers, those in the prompt too. With `is_reward` the
    last token of each sample alone is marked, where a reward model puts its score: `reward_token_id`, which
    is added, or with -1 the last token of the answer. Of a row with more than two answers `ranked_pairs`
    makes pairs of "all" of them or of "adjacent" ranks.

    `num_proc` is only there for the configs that set it: the tokenizer's threads do the work.
    """
    if is_reward == is_dpo:
        raise ConfigError(
            translate(
                "build_preference_dataset has is_dpo={is_dpo} and is_reward={is_reward}: set one of them, "
                "is_dpo = True for DPO and ORPO, is_reward = True for a reward model",
                is_dpo=is_dpo,
                is_reward=is_reward,
            )
        )
    _check_choice("ranked_pairs", ranked_pairs, RANKED_PAIRS)
    end_token = reward_token_id if is_reward else None
    if end_token is not None and end_token >= len(tokenizer):
        what = "reward_token_id is {token}, but the tokenizer has {size} tokens: take one that it has, or -1"
        raise ConfigError(translate(what, token=end_token, size=len(tokenizer)))
    reading = Reading(_map_fn(dataset_map_fn), loss_on)
    rows, store = _open_store(dataset, tokenizer, max_length, reading, end_token, strict)
    units = pair_units(store, ranked_pairs)
    if lost := count_single(store):
        logger.warning(translate("data: %d pairs left out, because one of their answers is"), lost)
    limit = max_packed_length if use_varlen_attn else None
    plan = pack_units(units, store, limit, shuffle_before_pack)
    stats = _log(store, plan, max_length, limit, strict)
    return ComparedDataset(store, plan, stats, rows.place)


def build_unpaired_dataset(
    dataset: Any,
    tokenizer: Any,
    max_length: int,
    dataset_map_fn: MapFn | str | None = None,
    with_kl: bool = True,
    use_varlen_attn: bool = False,
    max_packed_length: int = 16384,
    shuffle_before_pack: bool = True,
    loss_on: str = "answer",
    strict: bool = False,
) -> UnpairedDataset:
    """Items of one answer with its label, or of as many as `max_packed_length` tokens hold, for KTO.

    Beside each answer stands, `with_kl`, a mismatched one: the same prompt with an answer to another. A pair
    is a good and a bad answer. The other arguments are those of `build_preference_dataset`.
    """
    reading = Reading(_map_fn(dataset_map_fn), loss_on, is_labelled=True, with_mismatched=with_kl)
    rows, store = _open_store(dataset, tokenizer, max_length, reading, None, strict)
    units = labelled_units(store, with_kl)
    limit = max_packed_length if use_varlen_attn else None
    plan = pack_units(units, store, limit, shuffle_before_pack)
    stats = _log(store, plan, max_length, limit, strict)
    data = UnpairedDataset(store, plan, stats, rows.place, 1 + with_kl)
    num_good = int(is_good(store, plan.order[:: 1 + with_kl]).sum())
    logger.info(
        translate("data: %d good answers, %d bad ones"), num_good, len(plan.order) // (1 + with_kl) - num_good
    )
    return data


class ComparedDataset(PackedDataset):
    """Items of answers that are compared, whose rows have several samples each.

    `reference`: the log-probability of each sample of the store by a reference, once it is computed; items
    then have those of theirs as `reference_logprobs`.
    """

    store: TokenStore
    reference: np.ndarray | None = None

    def __getitem__(self, index: int) -> Item:
        item = super().__getitem__(index)
        if self.reference is None:
            return item
        return {**item, "reference_logprobs": self.reference[self.plan[checked_index(index, len(self))]]}

    def source_rows(self, index: int) -> list[int]:
        """The row numbers of the source, counted from 0, that item `index` is made of."""
        return self.store.column("answer_rows")[super().source_rows(index)].tolist()


class UnpairedDataset(ComparedDataset):
    """Items with `desirable`: whether each answer is good. `samples_per_answer` is 2 with mismatched ones."""

    def __init__(
        self, store: TokenStore, plan: packing.PackPlan, stats: Any, place: Any, samples_per_answer: int
    ) -> None:
        super().__init__(store, plan, stats, place)
        self._labels = is_good(store, plan.order)
        self.samples_per_answer = samples_per_answer
        self.key = fingerprint.fingerprint_value([self.key, np.packbits(self._labels).tobytes()])

    def __getitem__(self, index: int) -> Item:
        item = super().__getitem__(index)
        start, end = self.plan.boundaries[checked_index(index, len(self)) :][:2]
        return {**item, "desirable": self._labels[start : end : self.samples_per_answer]}


def _open_store(
    dataset: Any, tokenizer: Any, max_length: int, reading: Reading, end_token: int | None, strict: bool
) -> tuple[Selection, TokenStore]:
    """The rows, and the samples of their answers."""
    _check_choice("loss_on", reading.loss_on, LOSS_ON)
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            translate(
                "{builder} formats messages with the tokenizer's chat_template, but this "
                "tokenizer has none: give it one, such as tokenizer = dict(..., chat_template=...)",
                builder="build_unpaired_dataset" if reading.is_labelled else "build_preference_dataset",
            )
        )
    rows = take_some(take_split(dataset, "train"), None, 0)
    asked = [reading.loss_on, reading.is_labelled, reading.with_mismatched, end_token]
    settings = Encoding(tokenizer, max_length, dataset_map_fn=reading.map_fn)
    key = fingerprint.fingerprint_value(["preferences", asked, store_key(rows, settings)])
    # What is read here is mapped already.
    settings = Encoding(tokenizer, max_length, strict=strict, keep_thinking=True)
    return rows, open_or_write(key, lambda writer: write_answers(rows, reading, settings, end_token, writer))


def _map_fn(given: MapFn | str | None) -> MapFn | None:
    return find_map_fn(given, "dataset_map_fn", PREFERENCE_FORMATS)


def _check_choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        what = "{name} is {value!r}; use one of {known}.{hint}"
        raise ConfigError(
            translate(what, name=name, value=value, known=", ".join(known), hint=did_you_mean(value, known))
        )


def _log(
    store: TokenStore, plan: packing.PackPlan, max_length: int, limit: int | None, strict: bool
) -> dict[str, Any]:
    """The counts of the samples in items, logged with what is hardly meant."""
    counts = store.column("answer_counts")[store.rows[plan.order]]
    num_trained = int(counts.sum(dtype=np.int64))
    stats = log_packed(store, plan, max_length, limit, strict, num_trained)
    for kind, what in (
        (SWAPPED, "data: in %d rows the rejected answer has the higher score (%s): are both swapped?"),
        (MIXED, "data: in %d rows one answer is a text and the other is messages (%s)"),
    ):
        if places := stats.get(kind):
            count = stats[f"num_{kind}"]
            more = ", ..." if count > len(places) else ""
            logger.warning(translate(what), count, ", ".join(places) + more)
    return stats


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
