"""Tokenised data sets: `process_hf_dataset` tokenises rows, `ConcatDataset` and `MixedStream` join sets."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xtuner.dataset.concat_dataset import ConcatDataset
    from xtuner.dataset.huggingface import process_hf_dataset
    from xtuner.dataset.internvl import InternVL_V1_5_Dataset
    from xtuner.dataset.items.mixed import MixedStream
    from xtuner.dataset.llava import LLaVADataset
    from xtuner.dataset.modelscope import process_ms_dataset
    from xtuner.dataset.moss_sft import MOSSSFTDataset
    from xtuner.dataset.reading.load import load_dataset
    from xtuner.dataset.vision_language import VisionLanguageDataset

__all__ = [
    "ConcatDataset",
    "InternVL_V1_5_Dataset",
    "LLaVADataset",
    "MOSSSFTDataset",
    "MixedStream",
    "VisionLanguageDataset",
    "load_dataset",
    "process_hf_dataset",
    "process_ms_dataset",
]

_ROOMS = {
    "ConcatDataset": "concat_dataset",
    "InternVL_V1_5_Dataset": "internvl",
    "LLaVADataset": "llava",
    "MOSSSFTDataset": "moss_sft",
    "MixedStream": "items.mixed",
    "VisionLanguageDataset": "vision_language",
    "load_dataset": "reading.load",
    "process_hf_dataset": "huggingface",
    "process_ms_dataset": "modelscope",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: `xtuner check` looks for data files without numpy.
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ROOMS[name]}"), name)
