"""Items of different lengths as one batch.

input_ids       [5 6 7 8], [9 9]   ->  [[5 6 7 8] [9 9 0 0]]
labels          filled with -100
position_ids    [[0 1 2 0] [0 1 0 0]]        from 0 in each sample of a pack, boundaries [0 3 4] and [0 2]
attention_mask  [[1 1 1 1] [1 1 0 0]]        real tokens, whatever their id
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from xtuner.utils import DEFAULT_PAD_TOKEN_INDEX, IGNORE_INDEX


def default_collate_fn(
    instances: Sequence[Mapping[str, Any]],
    pad_index: int = DEFAULT_PAD_TOKEN_INDEX,
    return_hf_format: bool = False,
    use_varlen_attn: bool = False,
) -> dict[str, Any]:
    """A batch `{"data": {...}, "data_samples": None}`, or only `data` with `return_hf_format`.

    `cumulative_len` holds the boundaries of the samples of each sequence without padding, `max_seqlen` the
    length of the longest sample. `use_varlen_attn` has no effect: the boundaries are always included.
    """
    assert instances, "a batch has at least one item"
    all_ids = [np.asarray(instance["input_ids"]) for instance in instances]
    shape = (len(all_ids), max(map(len, all_ids)))
    input_ids = np.full(shape, pad_index, np.int64)
    labels = np.full(shape, IGNORE_INDEX, np.int64)
    position_ids = np.zeros(shape, np.int64)
    mask = np.zeros(shape, bool)
    all_boundaries = []
    for row, (ids, instance) in enumerate(zip(all_ids, instances, strict=True)):
        boundaries = np.asarray(instance.get("cumulative_len", [0, len(ids)]), np.int32)
        assert (boundaries[0], boundaries[-1]) == (0, len(ids)), "boundaries must span the item"
        input_ids[row, : len(ids)] = ids
        labels[row, : len(ids)] = instance["labels"]
        position_ids[row, : len(ids)] = np.arange(len(ids)) - np.repeat(boundaries[:-1], np.diff(boundaries))
        mask[row, : len(ids)] = True
        all_boundaries.append(boundaries)
    data: dict[str, Any] = {
        "input_ids": torch.from_numpy(input_ids),
        "labels": torch.from_numpy(labels),
        "position_ids": torch.from_numpy(position_ids),
        "attention_mask": torch.from_numpy(mask),
        "cumulative_len": [torch.from_numpy(boundaries) for boundaries in all_boundaries],
        "max_seqlen": int(max(np.diff(boundaries).max(initial=0) for boundaries in all_boundaries)),
    }
    images = [instance["pixel_values"] for instance in instances if "pixel_values" in instance]
    if images:
        same_shape = all(image.shape == images[0].shape for image in images)
        data["pixel_values"] = torch.stack(images) if same_shape else images
    return data if return_hf_format else {"data": data, "data_samples": None}
