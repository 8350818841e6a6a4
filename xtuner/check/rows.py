"""Check that the first rows of the data files have the fields of their map function.

dict(type=process_hf_dataset, dataset=dict(type=load_dataset, path='d.json'), dataset_map_fn=alpaca_map_fn)
->  Fault("train_dataloader.dataset", "...: d.json line 2: alpaca_map_fn: the row has no field 'output' ...")

The caller passes a function that reads rows, by `xtuner.dataset`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from xtuner.check.files import data_files
from xtuner.config.folders import called, walk
from xtuner.config.load import name_of
from xtuner.config.ref import as_ref
from xtuner.config.schema import Fault, data_parts
from xtuner.language import translate

# The dict of process_hf_dataset -> the fault of its rows, or None.
TryRows = Callable[[Mapping[str, Any]], str | None]
# The first row of a list in a JSON file needs the whole file; this size takes a tenth of a second.
MAX_BYTES = 20 * 2**20
_MAP_FNS = "xtuner.dataset.map_fns."


def row_faults(config: Mapping[str, Any], try_rows: TryRows) -> tuple[list[Fault], list[str]]:
    """The faults of first rows, and the files whose rows were not read."""
    faults, unchecked = [], []
    for path, cfg in _encoded(config):
        load = cfg["dataset"]
        files = data_files(load)
        if not files or not all(map(os.path.isfile, files)) or not _is_known(cfg.get("dataset_map_fn")):
            continue
        if sum(map(os.path.getsize, files)) > MAX_BYTES:
            unchecked.append(
                translate("the rows of {file}", file=load["path"] if len(files) > 1 else files[0])
            )
        elif message := try_rows(cfg):
            faults.append(Fault(path, f"{path}: {message}"))
    return faults, unchecked


def _encoded(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The calls that tokenise data of load_dataset."""
    for name in data_parts(config):
        for path, cfg in walk(config.get(name), name):
            load = cfg.get("dataset")
            if (
                called(cfg) in ("process_hf_dataset", "build_prompt_dataset")
                and isinstance(load, Mapping)
                and called(load) == "load_dataset"
                and isinstance(load.get("path"), str)
                and cfg.get("do_dataset_tokenization", True)
            ):
                yield path, cfg


def _is_known(map_fn: Any) -> bool:
    """Whether the function is in this package: importing a user's module may have side effects."""
    ref = as_ref(map_fn)
    if ref is not None:
        return name_of(ref).startswith(_MAP_FNS)
    return map_fn is None or isinstance(map_fn, str)
