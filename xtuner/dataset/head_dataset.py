"""From rows to samples for models with a head: classification, embeddings, scores of steps.

    rows       {"text": "...", "label": "spam"}     {"anchor", "positive", "negatives"}     {"prompt", ...}
    samples    a text each, its last token or the ends of its steps marked           of the token store
    units      a sample, or an anchor with its positive and negatives, never apart
    items      input_ids, cumulative_len, and sample_labels, group_sizes or labels   see heads/items.py

Texts are what `tokenizer(text)` makes of them; messages are written by the tokenizer's chat template.
`dataset_map_fn="auto"` knows the usual names of fields; None takes rows in the forms above.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from xtuner.dataset.encoding import fingerprint
from xtuner.dataset.encoding.pipeline import Encoding, MapFn
from xtuner.dataset.heads.items import GroupedDataset, LabelledDataset, StepwiseDataset
from xtuner.dataset.heads.rows import Classes, Groups, Numbers, RowKind, Steps
from xtuner.dataset.heads.texts import encode_texts_of
from xtuner.dataset.huggingface import find_map_fn, store_key, write_rows
from xtuner.dataset.items import packing
from xtuner.dataset.items.store import StoreWriter, TokenStore, open_or_write
from xtuner.dataset.items.summary import log_packed
from xtuner.dataset.map_fns.heads import HEAD_FORMATS
from xtuner.dataset.preferences.units import pack_units
from xtuner.dataset.reading.selection import Selection, take_some, take_split
from xtuner.errors import ConfigError, did_you_mean
from xtuner.language import translate
from xtuner.log import logger

__all__ = ["build_classification_dataset", "build_embedding_dataset", "build_stepwise_dataset"]

PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")


def build_classification_dataset(
    dataset: Any,
    tokenizer: Any,
    max_length: int,
    labels: Sequence[str | int] | None = None,
    problem_type: str = "single_label_classification",
    dataset_map_fn: MapFn | str | None = "auto",
    use_varlen_attn: bool = False,
    max_packed_length: int = 16384,
    shuffle_before_pack: bool = True,
    strict: bool = False,
) -> LabelledDataset:
    """Items of one text with its label, or with `use_varlen_attn` of as many as fit in `max_packed_length`.

    `labels` are the names of the classes, in the order of the model's; rows hold a name or its number, with
    "multi_label_classification" a list of them. "regression" has no names: the label of a row is a number.
    """
    names = check_labels(labels, problem_type)
    kind: RowKind = Classes(names, problem_type == PROBLEM_TYPES[1]) if names else Numbers()
    by_name = HEAD_FORMATS["classification" if names else "regression"]
    limit = _limit(use_varlen_attn, max_packed_length, max_length)
    map_fn = find_map_fn(dataset_map_fn, "dataset_map_fn", by_name)
    settings = Encoding(tokenizer, max_length, map_fn, strict=strict)
    rows, store = _open_store(dataset, settings, kind, [problem_type, names])
    plan = pack_units(packing.plan_single(len(store)), store, limit, shuffle_before_pack)
    stats = log_packed(store, plan, max_length, limit, strict)
    if names:
        _log_classes(store.column("labels"), names)
    return LabelledDataset(store, plan, stats, rows.place, names)


def build_embedding_dataset(
    dataset: Any,
    tokenizer: Any,
    max_length: int,
    dataset_map_fn: MapFn | str | None = "auto",
    use_varlen_attn: bool = False,
    max_packed_length: int = 16384,
    shuffle_before_pack: bool = True,
    strict: bool = False,
) -> GroupedDataset:
    """Items of an anchor with its positive and its negatives, or of as many such groups as fit.

    The other arguments are those of `build_classification_dataset`.
    """
    limit = _limit(use_varlen_attn, max_packed_length, max_length)
    map_fn = find_map_fn(dataset_map_fn, "dataset_map_fn", HEAD_FORMATS["embedding"])
    settings = Encoding(tokenizer, max_length, map_fn, strict=strict)
    rows, store = _open_store(dataset, settings, Groups(), [])
    units = packing.plan_by_group(np.asarray(store.column("groups")))
    plan = pack_units(units, store, limit, shuffle_before_pack)
    return GroupedDataset(store, plan, log_packed(store, plan, max_length, limit, strict), rows.place)


def build_stepwise_dataset(
    dataset: Any,
    tokenizer: Any,
    max_length: int,
    step_separator: str = "\n",
    dataset_map_fn: MapFn | str | None = "auto",
    use_varlen_attn: bool = False,
    max_packed_length: int = 16384,
    shuffle_before_pack: bool = True,
    strict: bool = False,
) -> StepwiseDataset:
    """Items of one prompt with the steps of an answer, or of as many as fit.

    `step_separator` follows each step, and the step's score is read at its last token; with "" at the last
    token of the step. The other arguments are those of `build_classification_dataset`.
    """
    limit = _limit(use_varlen_attn, max_packed_length, max_length)
    map_fn = find_map_fn(dataset_map_fn, "dataset_map_fn", HEAD_FORMATS["stepwise"])
    settings = Encoding(tokenizer, max_length, map_fn, strict=strict)
    rows, store = _open_store(dataset, settings, Steps(step_separator), [step_separator])
    plan = pack_units(packing.plan_single(len(store)), store, limit, shuffle_before_pack)
    stats = log_packed(store, plan, max_length, limit, strict)
    steps = store.column("steps")
    right = int(steps.sum())
    logger.info(translate("data: %d right steps, %d wrong ones"), right, len(steps) - right)
    return StepwiseDataset(store, plan, stats, rows.place)


def check_labels(labels: Sequence[str | int] | None, problem_type: str) -> list[str]:
    """The names of the classes, none for regression; ConfigError if they do not fit the `problem_type`."""
    if problem_type not in PROBLEM_TYPES:
        what = "{name} is {value!r}; use one of {known}.{hint}"
        hint = did_you_mean(str(problem_type), PROBLEM_TYPES)
        known = ", ".join(PROBLEM_TYPES)
        raise ConfigError(translate(what, name="problem_type", value=problem_type, known=known, hint=hint))
    names = [str(name) for name in labels or ()]
    if problem_type == "regression":
        if names:
            raise ConfigError(
                translate("labels are set, but problem_type = 'regression' has no classes: leave out one")
            )
        return []
    fewest = 1 if problem_type == "multi_label_classification" else 2
    if len(set(names)) < len(names) or len(names) < fewest:
        what = "labels is {labels}: give the names of the classes, at least {count}, each once"
        raise ConfigError(translate(what, labels=labels, count=fewest))
    return names


def _open_store(
    dataset: Any, settings: Encoding, kind: RowKind, asked: list[Any]
) -> tuple[Selection, TokenStore]:
    """The rows, and their samples; `asked` are the settings of `kind`."""
    rows = take_some(take_split(dataset, "train"), None, 0)
    key = fingerprint.fingerprint_value(["heads", type(kind).__name__, asked, store_key(rows, settings)])

    def write(writer: StoreWriter) -> dict[str, Any]:
        about = write_rows(rows, settings, writer, encode=functools.partial(encode_texts_of, kind=kind))
        for name, column in kind.columns().items():
            writer.add_column(name, column)
        return about

    return rows, open_or_write(key, write)


def _limit(use_varlen_attn: bool, max_packed_length: int, max_length: int) -> int | None:
    if use_varlen_attn and max_packed_length < max_length:
        what = "max_packed_length is {packed}, less than max_length = {length}: raise it"
        raise ConfigError(translate(what, packed=max_packed_length, length=max_length))
    return max_packed_length if use_varlen_attn else None


def _log_classes(labels: np.ndarray, names: Sequence[str]) -> None:
    """Log the number of samples of each class, and a warning for classes of one or none."""
    counts = labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=len(names))
    found = dict(zip(names, counts.tolist(), strict=True))
    most = sorted(found, key=lambda name: -found[name])[:10]
    words = ", ".join(f"{name} {found[name]:,}" for name in most) + (", ..." if len(names) > 10 else "")
    logger.info(translate("data: samples of each label: %s"), words)
    for count, what in (
        (0, "data: no sample has the label %s: it cannot be learnt"),
        (1, "data: only one sample has the label %s: it will hardly be learnt"),
    ):
        if rare := [name for name in names if found[name] == count]:
            logger.warning(translate(what), ", ".join(rare[:10]) + (", ..." if len(rare) > 10 else ""))
