"""Matrices rounded to 8 or 4 bits, and back, as the files of compressed-tensors hold them.

    fp8     W [out, in]  ->  weight float8 [out, in], weight_scale [out, 1]
    int8    W [out, in]  ->  weight int8 [out, in], weight_scale [out, 1]
    w4a16   W [out, in]  ->  weight_packed int32 [out, in / 8], weight_scale [out, in / group_size],
                             weight_shape [2]; if asymmetric weight_zero_point int32
                             [out / 8, in / group_size]

A scale is the largest value of a row or group over the largest code, rounded to the type of W; each weight
becomes the nearest code of that scale. With fp8 and int8 the inputs of a layer are rounded too, each token
by its own scale, while the model runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from xtuner.convert.safetensors_stream import TensorInfo

_FLOAT8 = torch.float8_e4m3fn
_PER_WORD = 8  # codes of 4 bits in an int32
_OFFSET = 8  # packed codes are stored as 0 to 15
MATRICES = ("weight", "weight_packed")
"""Ends of the names of the codes; other parts are small."""


@dataclass(frozen=True)
class Scheme:
    """How matrices are rounded: "fp8", "int8" or "w4a16"; the last has groups of `group_size` columns."""

    name: str
    group_size: int = 0
    is_symmetric: bool = True

    @property
    def rounds_inputs(self) -> bool:
        return self.name != "w4a16"

    @property
    def _bounds(self) -> tuple[float, float]:
        limits = torch.finfo(_FLOAT8)
        return {"fp8": (limits.min, limits.max), "int8": (-128, 127), "w4a16": (-8, 7)}[self.name]

    def infos(self, weight: TensorInfo) -> dict[str, TensorInfo]:
        """What is stored of a matrix: the ends of names, with types and shapes."""
        out, width = weight.shape
        if self.name != "w4a16":
            stored = _FLOAT8 if self.name == "fp8" else torch.int8
            return {
                "weight": TensorInfo(stored, weight.shape),
                "weight_scale": TensorInfo(weight.dtype, (out, 1)),
            }
        groups = width // self.group_size
        found = {
            "weight_packed": TensorInfo(torch.int32, (out, math.ceil(width / _PER_WORD))),
            "weight_scale": TensorInfo(weight.dtype, (out, groups)),
            "weight_shape": TensorInfo(torch.int64, (2,)),
        }
        if not self.is_symmetric:
            found["weight_zero_point"] = TensorInfo(torch.int32, (math.ceil(out / _PER_WORD), groups))
        return found

    def round(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """What is stored of the matrix `weight`."""
        grouped = weight.float().unflatten(-1, (-1, self.group_size or weight.shape[-1]))
        scale, zero = self._scale(grouped, weight.dtype)
        codes = self._codes(grouped, scale, zero).flatten(1)
        scale = scale.squeeze(-1).to(weight.dtype)
        if self.name != "w4a16":
            return {"weight": codes, "weight_scale": scale}
        found = {
            "weight_packed": packed(codes),
            "weight_scale": scale,
            "weight_shape": torch.tensor(weight.shape),
        }
        if zero is not None:
            found["weight_zero_point"] = packed(zero.squeeze(-1).to(torch.int8).T).T.contiguous()
        return found

    def restored(self, stored: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The matrix that `round` stored, in fp32."""
        scale = stored["weight_scale"].float()
        if self.name != "w4a16":
            return stored["weight"].float() * scale
        out, width = stored["weight_shape"].tolist()
        codes = unpacked(stored["weight_packed"], width).float().unflatten(-1, (-1, self.group_size))
        if not self.is_symmetric:
            zero = unpacked(stored["weight_zero_point"].T, out).T
            codes = codes - zero.float().unsqueeze(-1)
        return (codes * scale.unsqueeze(-1)).flatten(1)

    def rounded_inputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """The inputs of a layer as the programs round them: each token by its own scale."""
        values = inputs.float().unflatten(-1, (1, -1))
        scale, _ = self._scale(values, torch.float32)
        return (self._codes(values, scale, None).float() * scale).flatten(-2).to(inputs.dtype)

    def _scale(self, groups: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A scale for each row of the last dimension, which `dtype` holds, and the code that is 0."""
        low, high = self._bounds
        steps = high - low
        if self.is_symmetric:
            scale, zero = groups.abs().amax(-1, keepdim=True) / (steps / 2), None
        else:
            # 0 must have a code.
            least = groups.amin(-1, keepdim=True).clamp(max=0)
            scale = (groups.amax(-1, keepdim=True).clamp(min=0) - least) / steps
        scale = scale.to(dtype).float()
        scale = torch.where(scale == 0, torch.finfo(dtype).eps, scale)
        if not self.is_symmetric:
            zero = (low - least / scale).clamp(low, high).round()
        return scale, zero

    def _codes(self, groups: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None) -> torch.Tensor:
        low, high = self._bounds
        values = groups / scale if zero is None else groups / scale + zero
        values = values.clamp(low, high)
        return values.to(_FLOAT8) if self.name == "fp8" else values.round().to(torch.int8)

    def config(self, left: list[str]) -> dict[str, Any]:
        """The `quantization_config` of config.json; `left`: names of linear layers that are not rounded."""
        bits = 4 if self.name == "w4a16" else 8
        kind = "float" if self.name == "fp8" else "int"
        weights: dict[str, Any] = {
            "num_bits": bits,
            "type": kind,
            "symmetric": self.is_symmetric,
            "strategy": "group" if self.group_size else "channel",
            "group_size": self.group_size or None,
            "dynamic": False,
        }
        inputs = {
            "num_bits": bits,
            "type": kind,
            "symmetric": True,
            "strategy": "token",
            "group_size": None,
            "dynamic": True,
        }
        file_format = {"fp8": "float-quantized", "int8": "int-quantized", "w4a16": "pack-quantized"}[
            self.name
        ]
        return {
            "quant_method": "compressed-tensors",
            "format": file_format,
            "quantization_status": "compressed",
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": weights,
                    "input_activations": inputs if self.rounds_inputs else None,
                    "output_activations": None,
                    "format": file_format,
                }
            },
            "ignore": left,
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
        }


def packed(codes: torch.Tensor) -> torch.Tensor:
    """Rows of 4-bit codes, -8 to 7, as rows of int32 words: the first code in the lowest bits."""
    missing = -codes.shape[-1] % _PER_WORD
    values = functional.pad(codes.to(torch.int32) + _OFFSET, (0, missing)).unflatten(-1, (-1, _PER_WORD))
    words = torch.zeros(values.shape[:-1], dtype=torch.int32)
    for place in range(_PER_WORD):
        words |= values[..., place] << (4 * place)
    return words


def unpacked(words: torch.Tensor, width: int) -> torch.Tensor:
    """The codes that `packed` made words of, `width` in each row."""
    places = torch.arange(0, 4 * _PER_WORD, 4, dtype=torch.int32)
    codes = (words.unsqueeze(-1) >> places & 0xF) - _OFFSET
    return codes.flatten(-2)[..., :width].to(torch.int8)
