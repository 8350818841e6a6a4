"""Items of single answers as one batch, for KTO.

items        [a a a | m m], [b b | n n n]      answers a and b, mismatched ones m and n beside them
batch        as flat_collate_fn makes it, with `num_answers` = 2 and `desirable` = [True, False]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from xtuner.dataset.collate_fns.flat import flat_collate_fn


def unpaired_collate_fn(
    instances: Sequence[Mapping[str, Any]],
    pad_index: int = 0,
    return_hf_format: bool = False,
    use_varlen_attn: bool = False,
) -> dict[str, Any]:
    """A batch `{"data": {...}, "data_samples": None}`, or what is under `data` with `return_hf_format`.

    Its samples are the answers, or answers and mismatched ones in turn. Nothing is padded, and samples never
    attend to each other: `pad_index` and `use_varlen_attn` are only there for the configs that set them.
    """
    batch = flat_collate_fn(instances)
    data = batch["data"]
    desirable = np.concatenate([instance["desirable"] for instance in instances])
    num_samples = len(data["boundaries"]) - 1
    assert num_samples in (len(desirable), 2 * len(desirable)), (
        f"{num_samples} samples, {len(desirable)} labels"
    )
    data["desirable"] = torch.from_numpy(desirable)
    data["num_answers"] = len(desirable)
    return data if return_hf_format else batch
