"""Rows from ModelScope: `process_ms_dataset` is `process_hf_dataset` for data of `MsDataset.load`.

Configs import `MsDataset` from here, so that they load, and editors know the name, without modelscope.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from xtuner.dataset.huggingface import process_hf_dataset
from xtuner.dataset.items.packed_dataset import PackedDataset
from xtuner.dataset.items.streamed import StreamedDataset
from xtuner.errors import DataError
from xtuner.extras import install_extra
from xtuner.language import translate


def process_ms_dataset(dataset: Any, *arguments: Any, **settings: Any) -> PackedDataset | StreamedDataset:
    """As process_hf_dataset, of a ModelScope data set, a dict of them by split, or a name on the hub."""
    if isinstance(dataset, str):
        dataset = load_ms_dataset(dataset)
    if isinstance(dataset, Mapping):
        dataset = {split: _as_rows(rows) for split, rows in dataset.items()}
    return process_hf_dataset(_as_rows(dataset), *arguments, **settings)


# Configs are checked against the signature.
process_ms_dataset.__signature__ = inspect.signature(process_hf_dataset)  # type: ignore[attr-defined]


def load_ms_dataset(name: str, **options: Any) -> Any:
    """The data set `name` of ModelScope, from `MsDataset.load`."""
    try:
        from modelscope.msdatasets import MsDataset
    except ImportError as error:
        raise DataError(
            translate(
                "loading {name!r} from ModelScope needs the package modelscope ({error}): {command}, "
                "or give the rows as a file with dataset = dict(type=load_dataset, path='data.json')",
                name=name,
                error=error,
                command=install_extra("modelscope"),
            )
        ) from None
    return MsDataset.load(name, **options)


class MsDataset:
    """The name in configs: `dict(type=MsDataset.load, dataset_name='damo/MSAgent-Bench')`."""

    @staticmethod
    def load(dataset_name: str, **options: Any) -> Any:
        """The data set of that name, as modelscope's own MsDataset.load."""
        return load_ms_dataset(dataset_name, **options)


def _as_rows(dataset: Any) -> Any:
    return dataset.to_hf_dataset() if hasattr(dataset, "to_hf_dataset") else dataset
