"""From any rows to batches: `process_hf_dataset` makes items of tokens, `ConcatDataset` joins several."""

from xtuner.dataset.huggingface import process_hf_dataset
from xtuner.dataset.packed_dataset import ConcatDataset

__all__ = ["ConcatDataset", "process_hf_dataset"]
