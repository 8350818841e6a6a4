"""The types of tensors in a GGUF file, and their bytes.

    f16       matrices F16                        q8_0   blocks of 32 in 8 bits
    q4_k_m    most matrices Q4_K (blocks of 256 in 4 bits); values, down projections of half of the layers
              and the head Q6_K: which type a tensor has is what llama.cpp's own tool gives it
    vectors and routers F32 always; rows that are no multiple of 256 get the next larger type of blocks of 32

K-quants are computed by llama.cpp's own code, which several packages hold.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from xtuner.errors import ConfigError, ModelError
from xtuner.extras import install_extra
from xtuner.language import translate

# Packages whose compiled files hold llama.cpp's code.
_PACKAGES = ("xllamacpp", "llama_cpp", "llama_cpp_py_sync")
_SUFFIXES = (".so", ".dylib", ".dll", ".pyd")
_FUNCTION = "ggml_quantize_chunk"
# Type -> that of rows which are no multiple of 256.
_FALLBACK = {"Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_PLAIN = {"F32": "float32", "F16": "float16"}
_MIXTRALS = 8  # experts: llama.cpp keeps keys and values of such models, which are small, in 8 bits
_LARGE = 80  # layers: values of such models, small beside the rest, have 5 bits at least


@dataclass(frozen=True)
class Model:
    """What the types depend on beside a tensor's name."""

    num_layers: int
    num_experts: int
    is_tied: bool


def type_of(name: str, shape: tuple[int, ...], kind: str, model: Model) -> str:
    """The type, as GGUF names it, of the tensor `name` of the file."""
    if len(shape) == 1 or ".ffn_gate_inp" in name:
        return "F32"
    if kind == "f16" or shape[-1] % 32:
        return "F16"
    if kind == "q8_0":
        return "Q8_0"
    wanted = _k_type(name, kind, model)
    return wanted if wanted == "Q8_0" or shape[-1] % 256 == 0 else _FALLBACK[wanted]


def _k_type(name: str, kind: str, model: Model) -> str:
    base = f"Q{kind[1]}_K"
    if name == "output.weight" or (name == "token_embd.weight" and model.is_tied):
        return "Q6_K"
    if not name.startswith("blk."):
        return base
    _, number, part, *_ = name.split(".")
    layer, is_few = int(number), model.num_experts == _MIXTRALS
    if part in ("attn_k", "attn_v") and is_few:
        return "Q8_0"
    if part == "attn_v":
        return _of_values(kind, base, layer, model)
    if part.startswith("ffn_down"):
        return _of_down(kind, base, layer, model.num_layers)
    if part == "attn_output" and base in ("Q3_K", "Q4_K"):
        return "Q5_K" if is_few else {"Q3_K": "Q4_K"}.get(base, base)
    return base


def _of_values(kind: str, base: str, layer: int, model: Model) -> str:
    found = base
    if kind in ("q4_k_m", "q5_k_m") and _has_more_bits(layer, model.num_layers):
        found = "Q6_K"
    elif kind == "q4_k_s" and layer < 4:
        found = "Q5_K"
    elif kind == "q3_k_m":
        found = "Q5_K" if layer < 2 else "Q4_K"
    return "Q5_K" if found in ("Q3_K", "Q4_K") and model.num_layers == _LARGE else found


def _of_down(kind: str, base: str, layer: int, num_layers: int) -> str:
    if kind in ("q4_k_m", "q5_k_m"):
        return "Q6_K" if _has_more_bits(layer, num_layers) else base
    if kind == "q4_k_s":
        return "Q5_K" if layer < num_layers // 8 else base
    if kind == "q3_k_m":
        return "Q5_K" if layer < num_layers // 16 else "Q4_K"
    return base


def _has_more_bits(layer: int, num_layers: int) -> bool:
    """The first and the last eighth of the layers, and every third between."""
    eighth = num_layers // 8
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2


def numpy_type(kind: str) -> str:
    """What numpy holds data of a type as: bytes unless they are plain numbers."""
    return _PLAIN.get(kind, "uint8")


def raw_shape(gguf: Any, shape: tuple[int, ...], dtype: Any) -> tuple[int, ...]:
    """The shape of a tensor's data as numpy holds it."""
    return shape if dtype.name in _PLAIN else gguf.quant_shape_to_byte_shape(shape, dtype)


def num_bytes(gguf: Any, shape: tuple[int, ...], dtype: Any) -> int:
    """The size of a tensor in the file."""
    size = {"F32": 4, "F16": 2}.get(dtype.name, 1)
    return math.prod(raw_shape(gguf, shape, dtype)) * size


def stored(gguf: Any, name: str, tensor: torch.Tensor, dtype: Any) -> Any:
    """The tensor as numpy data of a type of GGUF."""
    values = tensor.float().contiguous()
    if dtype.name == "F32":
        return values.numpy()
    if dtype.name == "F16":
        largest = values.abs().max().item()
        if not largest <= torch.finfo(torch.float16).max:
            raise ModelError(
                translate(
                    "{name} holds {largest:g}, more than f16 can hold: use --type q8_0",
                    name=name,
                    largest=largest,
                )
            )
        return values.half().numpy()
    if dtype.name == "Q8_0":
        return gguf.quants.quantize(values.numpy(), dtype)
    return _by_llama_cpp(gguf, values, dtype)


def _by_llama_cpp(gguf: Any, values: torch.Tensor, dtype: Any) -> Any:
    data = torch.empty(raw_shape(gguf, tuple(values.shape), dtype), dtype=torch.uint8)
    rows, width = values.numel() // values.shape[-1], values.shape[-1]
    written = quantiser()(int(dtype), values.data_ptr(), data.data_ptr(), 0, rows, width, None)
    assert written == data.numel(), (dtype, written, data.numel())
    return data.numpy()


@functools.cache
def quantiser() -> Any:
    """llama.cpp's function that quantises rows; ConfigError, with the cure, where no package holds it."""
    for file in _compiled_files():
        try:
            function = getattr(ctypes.CDLL(str(file)), _FUNCTION)
        except (OSError, AttributeError):  # not built for this system, or without the function
            continue
        size, address = ctypes.c_int64, ctypes.c_void_p
        function.argtypes = [ctypes.c_int, address, address, size, size, size, address]
        function.restype = ctypes.c_size_t
        return function
    raise ConfigError(
        translate(
            "K-quants need llama.cpp's own code, by the package xllamacpp: {command}",
            command=install_extra("llama"),
        )
    )


def _compiled_files() -> Iterator[Path]:
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            files = (file for file in sorted(Path(folder).rglob("*")) if _is_compiled(file))
            yield from (file for file in files if "ggml-base" in file.name or file.stem.startswith(package))


def _is_compiled(file: Path) -> bool:
    return any(suffix in file.suffixes for suffix in _SUFFIXES)
