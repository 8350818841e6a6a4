"""What is beside an adapter in a folder of the package `llava`: the projector, and the config of the whole.

    non_lora_trainables.bin   base_model.model.model.mm_projector.0.weight   ->   model.mm_projector.0.weight
    config.json               "mm_vision_tower": ...                         ->   config.json

Its base is a language model, so merging gives a folder of the package.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from xtuner.convert.safetensors_stream import TensorInfo
from xtuner.convert.weights import Weights
from xtuner.llava_folder import BESIDE_ADAPTER, check_supported, encoder_config, is_official_folder
from xtuner.model.lora import read_weights
from xtuner.model_folder import read_json

_PREFIX = "base_model.model."


class BesideAdapter(Mapping[str, torch.Tensor]):
    """The tensors beside the adapter in `folder`, in the dtype of `base`; none if the adapter is all."""

    def __init__(self, folder: Path, base: Weights) -> None:
        self._config = folder / "config.json"
        self._tensors: dict[str, torch.Tensor] = {}
        if not (folder / BESIDE_ADAPTER).is_file() or not is_official_folder(folder):
            return
        config = read_json(self._config)
        check_supported(config, folder)
        encoder_config(config, folder)  # an encoder that is missing is reported before anything is written
        dtype = next(info.dtype for info in base.infos.values() if info.dtype.is_floating_point)
        for name, tensor in read_weights(folder / BESIDE_ADAPTER).items():
            self._tensors[name.removeprefix(_PREFIX)] = tensor.to(dtype)

    @property
    def infos(self) -> dict[str, TensorInfo]:
        """The types and shapes of the tensors."""
        return {name: TensorInfo(t.dtype, tuple(t.shape)) for name, t in self._tensors.items()}

    def write_config(self, folder: Path) -> None:
        """Write the config of the whole model to `folder`, which has that of the language model."""
        if self._tensors:
            rows = read_json(folder / "config.json")["vocab_size"]
            fields = {**read_json(self._config), "vocab_size": rows}
            (folder / "config.json").write_text(
                json.dumps(fields, indent=2, ensure_ascii=False) + "\n", "utf-8"
            )

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
