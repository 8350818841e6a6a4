"""Read and write safetensors files one tensor at a time: memory holds one tensor and the file is not mapped.

    8 bytes   length of the header, little endian
    header    {"name": {"dtype": "BF16", "shape": [4, 2], "data_offsets": [0, 16]}, ...}
    data      the tensors one after the other, offsets counted from here

The library's own `safe_open` maps the whole file (its pages count as memory of the process) and its
`save_file` wants every tensor of the file at once. Format: https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch

from xtuner.errors import ModelError
from xtuner.language import translate

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_HEADER = 100_000_000  # bytes; the library refuses longer ones too


class TensorInfo(NamedTuple):
    """Dtype and shape of a tensor, known before it is read."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class SafetensorsFile:
    """A safetensors file: `infos` by name, and `read(name)`. The file is open only during a read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self.infos, self._offsets = self._read_header(file)

    def _read_header(self, file: BinaryIO) -> tuple[dict[str, TensorInfo], dict[str, int]]:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        try:
            if not 2 <= length <= min(size - 8, _MAX_HEADER):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            infos, offsets = {}, {}
            for name, entry in header.items():
                start, stop = entry["data_offsets"]
                infos[name] = TensorInfo(DTYPES[entry["dtype"]], tuple(entry["shape"]))
                offsets[name] = 8 + length + start
                if stop - start != infos[name].num_bytes or 8 + length + stop > size:
                    raise ValueError(f"data of {name} is missing")
        except (ValueError, KeyError, TypeError) as e:
            raise ModelError(
                translate(
                    "{path} is incomplete or not safetensors: {error}. Download it again.",
                    path=self.path,
                    error=e,
                )
            ) from e
        return infos, offsets

    def read(self, name: str) -> torch.Tensor:
        """The tensor `name`, as a copy in memory."""
        info = self.infos[name]
        tensor = torch.empty(info.shape, dtype=info.dtype)
        if info.num_bytes:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self._offsets[name])
                left = _bytes_of(tensor)
                # One read call returns at most 2 GB.
                while left and (count := file.readinto(left)):
                    left = left[count:]
            assert not left, (self.path, name)
        return tensor


def write_safetensors(
    path: Path, infos: Mapping[str, TensorInfo], load: Callable[[str], torch.Tensor]
) -> None:
    """Write the tensors that `load(name)` returns, each freed before the next is loaded."""
    # Wide types first, as the library does: every tensor then starts at a multiple of its item size.
    names = sorted(infos, key=lambda name: -infos[name].dtype.itemsize)
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in names:
        info = infos[name]
        stop = start + info.num_bytes
        header[name] = {"dtype": _NAMES[info.dtype], "shape": list(info.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in names:
            tensor = load(name).detach().cpu().contiguous()
            assert TensorInfo(tensor.dtype, tuple(tensor.shape)) == infos[name], (name, tensor.shape)
            if infos[name].num_bytes:
                file.write(_bytes_of(tensor))
        file.flush()
        os.fsync(file.fileno())


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())
