"""From items to batches."""

from xtuner.dataset.collate_fns.default import default_collate_fn

__all__ = ["default_collate_fn"]
