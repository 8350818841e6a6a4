"""Items of pairs as one batch: chosen and rejected answers in turn.

items        [c c c | r r], [c c | r r r]
batch        as flat_collate_fn makes it, with `num_pairs` = 2
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xtuner.dataset.collate_fns.flat import flat_collate_fn


def preference_collate_fn(
    instances: Sequence[Mapping[str, Any]],
    pad_index: int = 0,
    return_hf_format: bool = False,
    use_varlen_attn: bool = False,
) -> dict[str, Any]:
    """A batch `{"data": {...}, "data_samples": None}`, or only `data` with `return_hf_format`.

    Nothing is padded, and samples never attend to each other: `pad_index` and `use_varlen_attn` have no
    effect and exist for configs that set them.
    """
    batch = flat_collate_fn(instances)
    data = batch["data"]
    num_samples = len(data["boundaries"]) - 1
    assert num_samples % 2 == 0, f"{num_samples} samples are no pairs"
    data["num_pairs"] = num_samples // 2
    return data if return_hf_format else batch
