"""Items for models with a head as one batch: as flat_collate_fn makes it, and what their losses need.

classification   sample_labels [3] or [3, labels], label_names
embedding        group_sizes [2, 3], text_keys [5]: equal for equal texts
stepwise         loss_positions the ends of steps, loss_targets 1 if right and 0 if wrong, num_steps
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from xtuner.dataset.collate_fns.flat import flat_collate_fn
from xtuner.dataset.heads.items import label_names_of
from xtuner.utils import IGNORE_INDEX


def classification_collate_fn(instances: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of samples, each with its label."""
    batch = flat_collate_fn(instances)
    labels = np.concatenate([instance["sample_labels"] for instance in instances])
    batch["data"]["sample_labels"] = torch.from_numpy(labels)
    batch["data"]["label_names"] = label_names_of(instances)
    return batch


def embedding_collate_fn(instances: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of groups: an anchor, its positive, and any number of negatives."""
    batch = flat_collate_fn(instances)
    data = batch["data"]
    data["group_sizes"] = [size for instance in instances for size in instance["group_sizes"]]
    assert sum(data["group_sizes"]) == len(data["boundaries"]) - 1, "groups must span the samples"
    ids = data["input_ids"][0].numpy()
    spans = itertools.pairwise(data["boundaries"])
    data["text_keys"] = torch.tensor([_key(ids[start:end]) for start, end in spans])
    return batch


def stepwise_collate_fn(instances: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of answers whose labels stand at the ends of their steps."""
    batch = flat_collate_fn(instances)
    data = batch["data"]
    labels = data["labels"][0].numpy()
    data["loss_positions"] = np.flatnonzero(labels != IGNORE_INDEX)
    data["loss_targets"] = labels[data["loss_positions"]]
    data["num_steps"] = len(data["loss_positions"])
    return batch


def _key(ids: np.ndarray) -> int:
    digest = hashlib.blake2b(np.ascontiguousarray(ids, np.int64).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
