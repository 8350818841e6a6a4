"""Questions of MMLU as a batch, with their right letters and subjects.

data_samples   {"labels": ["B", ...], "subjects": ["law", ...]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xtuner.dataset.collate_fns.default import default_collate_fn
from xtuner.errors import DataError
from xtuner.language import translate
from xtuner.utils import DEFAULT_PAD_TOKEN_INDEX


def mmlu_collate_fn(
    instances: Sequence[Mapping[str, Any]],
    pad_index: int = DEFAULT_PAD_TOKEN_INDEX,
    return_hf_format: bool = False,
) -> dict[str, Any]:
    """A batch as of `default_collate_fn`, with `data_samples`."""
    batch = default_collate_fn(instances, pad_index=pad_index, return_hf_format=return_hf_format)
    if return_hf_format:
        return batch
    for name in ("output", "subject"):
        if any(name not in instance for instance in instances):
            what = (
                "mmlu_collate_fn: an item has no {name!r}: its rows need it, and the data set neither "
                "pack_to_max_length nor remove_unused_columns"
            )
            raise DataError(translate(what, name=name))
    labels = [str(instance["output"]).strip() for instance in instances]
    return {**batch, "data_samples": {"labels": labels, "subjects": [i["subject"] for i in instances]}}
