"""Items as one packed sequence, with the metadata that the host needs.

items            [a a a | b b], [c c c]          two packs
input_ids        [[a a a b b c c c]]             [1, 8], no padding
labels           the same shape
boundaries       [0, 3, 5, 8]                    a list: it stays on the host
loss_positions   positions whose next token is supervised; `loss_targets`: these tokens; arrays on the host
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from xtuner.next_tokens import next_tokens


def flat_collate_fn(instances: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch `{"data": {...}, "data_samples": None}`; the engine uses it instead of default_collate_fn."""
    assert instances, "a batch has at least one item"
    all_ids = [np.asarray(instance["input_ids"], np.int64) for instance in instances]
    boundaries = [0]
    for ids, instance in zip(all_ids, instances, strict=True):
        inner = instance.get("cumulative_len", [0, len(ids)])
        assert (inner[0], inner[-1]) == (0, len(ids)), "boundaries must span the item"
        offset = boundaries[-1]
        boundaries += [offset + int(b) for b in inner[1:]]
    labels = np.concatenate([np.asarray(instance["labels"], np.int64) for instance in instances])
    positions, targets = next_tokens(labels, boundaries)
    data: dict[str, Any] = {
        "input_ids": torch.from_numpy(np.concatenate(all_ids)[None]),
        "labels": torch.from_numpy(labels[None]),
        "boundaries": boundaries,
        "loss_positions": positions,
        "loss_targets": targets,
    }
    if all("reference_logprobs" in instance for instance in instances):
        found = [instance["reference_logprobs"] for instance in instances]
        data["reference_logprobs"] = np.concatenate(found)
    if images := [instance["pixel_values"] for instance in instances if "pixel_values" in instance]:
        data["pixel_values"] = images
        data["is_image"] = np.concatenate(all_ids) < 0  # stays on the host
    if any("image_inputs" in instance for instance in instances):
        data["image_inputs"] = [
            inputs
            for instance in instances
            for inputs in instance.get("image_inputs") or [None] * _num_samples(instance)
        ]
    return {"data": data, "data_samples": None}


def _num_samples(instance: Mapping[str, Any]) -> int:
    return len(instance.get("cumulative_len", [0, 0])) - 1
