"""Read and map the first rows of a config's data as in training; nothing is tokenised."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from itertools import islice
from typing import Any

from xtuner.config import Builder
from xtuner.config.folders import called
from xtuner.dataset.encoding.asked import prompt_map_fn
from xtuner.dataset.encoding.pipeline import MAX_FAULTY_FRACTION, Encoding, converse
from xtuner.dataset.huggingface import find_map_fn
from xtuner.dataset.map_fns import DATASET_FORMAT_MAPPING
from xtuner.dataset.map_fns.auto import auto_map_fn
from xtuner.dataset.reading.selection import take_split
from xtuner.errors import DataError, XTunerError
from xtuner.language import translate

LOOKED_AT = 200
"""The number of rows that are mapped."""


def try_first_rows(cfg: Mapping[str, Any]) -> str | None:
    """The fault of the first rows of a `process_hf_dataset`, or None if training accepts them."""
    builder = Builder()
    try:
        rows = take_split(builder.build(cfg["dataset"], "dataset"), cfg.get("split", "train"))
        built = builder.build(cfg.get("dataset_map_fn"), "dataset_map_fn")
        map_fn = find_map_fn(built, "dataset_map_fn", DATASET_FORMAT_MAPPING)
        if called(cfg) == "build_prompt_dataset":
            map_fn = functools.partial(prompt_map_fn, map_fn=map_fn or auto_map_fn)
        settings = Encoding(None, None, map_fn, rename_maps=dict(cfg.get("rename_maps") or ()))
        return _faults(rows, settings)
    except XTunerError as error:
        return str(error)


def _faults(rows: Any, settings: Encoding) -> str | None:
    faults, count = [], 0
    for number, read in islice(rows.unread(), LOOKED_AT):
        count += 1
        try:
            row = read()
        except DataError as error:
            faults.append(str(error))
            continue
        try:
            converse(row, settings)
        except DataError as error:
            faults.append(f"{rows.place(number)}: {error}")
    if not count:
        return translate("the data is empty: there are no rows in its files")
    if len(faults) <= count * MAX_FAULTY_FRACTION:
        return None
    if len(faults) == 1:
        return faults[0]
    more = translate(" ({faults} of the first {count} rows have a fault)", faults=len(faults), count=count)
    return faults[0] + more
