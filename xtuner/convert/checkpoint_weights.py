"""The weights of a checkpoint, read one by one whatever its form.

iter_300.pth                    a file: mapped
iter_300.pth/mp_rank_00_...pt   of DeepSpeed: the same     "llm.model.norm.weight" -> TensorInfo, Tensor
iter_300.pth/__0_0.distcp       sharded: put together of parts
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from xtuner.convert.safetensors_stream import TensorInfo
from xtuner.engine.checkpoints import sharded
from xtuner.engine.checkpoints.files import find_checkpoint, is_sharded, open_checkpoint


class CheckpointWeights(Mapping[str, torch.Tensor]):
    """Tensors of a checkpoint by name, after its checksums were compared. `meta`: what it says of its run.

    `same_as[name]` is the first name of the same tensor: of tied weights one is in the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = find_checkpoint(Path(path).expanduser())
        found = open_checkpoint(self.path, check=True)
        self.meta: dict[str, Any] = found.get("meta", {})
        self.is_sharded = is_sharded(found)
        self._state: dict[str, torch.Tensor] = found["state_dict"]
        self.infos = {name: TensorInfo(t.dtype, tuple(t.shape)) for name, t in self._state.items()}
        firsts: dict[Any, str] = {}
        self.same_as = {
            name: firsts.setdefault(sharded.identity(tensor), name) for name, tensor in self._state.items()
        }

    def __getitem__(self, name: str) -> torch.Tensor:
        first = self.same_as[name]
        if not self.is_sharded:
            return self._state[first]
        described = {"state_dict": {first: self._state[first]}}
        return sharded.read_whole(self.path, described)["state_dict"][first]

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)
