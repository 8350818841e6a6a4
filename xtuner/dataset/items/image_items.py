"""Items of samples with images: what data sets of LLaVA and of other vision-language models share.

sample   ids 1 9 -200 -200 7 5, labels, and the tensors of its images
item     the samples of a pack one after the other; `modality_length` is negative without an image
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from xtuner.dataset.items import packing
from xtuner.dataset.items.packed_dataset import Item, PackedDataset
from xtuner.dataset.items.store import TokenStore
from xtuner.dataset.items.summary import item_stats


class ImageItems(PackedDataset):
    """Items of the samples `kept` of `text`, one each or packed up to `limit` tokens."""

    def __init__(
        self,
        text: PackedDataset,
        kept: np.ndarray,
        num_image_tokens: np.ndarray,
        lengths: np.ndarray,
        limit: int | None,
        seed: int,
    ) -> None:
        """`num_image_tokens`, `lengths` with those of images: of each sample of `text`."""
        plan = packing.plan_chosen(kept)
        if limit is not None:
            packs = packing.plan_packs(lengths[kept], limit, seed)
            plan = packing.PackPlan(kept[packs.order], packs.boundaries)
        self._sample_lengths = lengths[kept]
        left_out = np.setdiff1d(np.arange(len(text.store)), kept)
        trained = sum(int(text.store.sample(number)[1].sum()) for number in left_out.tolist())
        counts = {"samples": len(kept), "tokens": int(self._sample_lengths.sum())}
        counts["trained"] = text.stats["trained"] - trained
        stats = item_stats({**text.stats, **counts}, len(plan), limit)
        super().__init__(text.store, plan, stats, text.place, text.row)
        self.length = plan.lengths(lengths)
        self._num_image_tokens = num_image_tokens

    @property
    def sample_lengths(self) -> np.ndarray:
        return self._sample_lengths

    @property
    def modality_length(self) -> np.ndarray:
        """As `length`, negative for items without an image."""
        order, boundaries = self.plan.order, self.plan.boundaries
        has_image = np.add.reduceat(self._num_image_tokens[order], boundaries[:-1]) > 0
        return np.where(has_image, self.length, -self.length)


def joined(samples: Iterable[tuple[np.ndarray, np.ndarray]]) -> Item:
    """The item of samples of ids and labels."""
    all_ids, all_labels = zip(*samples, strict=True)
    item: dict[str, Any] = {"input_ids": np.concatenate(all_ids), "labels": np.concatenate(all_labels)}
    return {**item, "cumulative_len": [0, *itertools.accumulate(map(len, all_ids))]}


def count_tokens(store: Any, token_id: int) -> np.ndarray:
    """How often each sample has the token."""
    assert isinstance(store, TokenStore)
    starts = np.concatenate([[0], np.cumsum(store.lengths)[:-1]])
    return np.add.reduceat(store.ids == token_id, starts, dtype=np.int64)
