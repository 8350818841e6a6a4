"""Functions that make batches of items."""

from xtuner.dataset.collate_fns.default import default_collate_fn
from xtuner.dataset.collate_fns.flat import flat_collate_fn
from xtuner.dataset.collate_fns.mmlu import mmlu_collate_fn

__all__ = ["default_collate_fn", "flat_collate_fn", "mmlu_collate_fn"]
