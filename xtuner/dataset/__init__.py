"""From any rows to batches: `process_hf_dataset` makes items of tokens, `ConcatDataset` and
`MixedStream` join several.
"""

from xtuner.dataset.concat_dataset import ConcatDataset
from xtuner.dataset.huggingface import process_hf_dataset
from xtuner.dataset.mixed_stream import MixedStream
from xtuner.dataset.modelscope import process_ms_dataset
from xtuner.dataset.moss_sft import MOSSSFTDataset

__all__ = ["ConcatDataset", "MOSSSFTDataset", "MixedStream", "process_hf_dataset", "process_ms_dataset"]
