"""Weights that stay in their files until each process reads its part of them.

files     bf16                         mapped into memory: nothing is read
model     the same memory              whole, without a copy
parts     fp32, rows of this process   read and widened one by one (xtuner/parallel/tensors.py)

Without this each process would read all weights in the precision of training and then keep its part.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from xtuner.language import translate
from xtuner.log import say_once
from xtuner.model_folder import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_asked: ContextVar[bool] = ContextVar("weights_in_files", default=False)
_FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
# Arguments of `from_pretrained` that select other files than those read here, and those that locate them.
_OTHER_FILES = frozenset({"subfolder", "variant", "gguf_file", "use_safetensors"})
_WHERE = frozenset({"revision", "cache_dir", "token", "local_files_only"})


@contextlib.contextmanager
def weights_in_files() -> Iterator[None]:
    """A context in which weights of loaded models stay in their files if possible."""
    token = _asked.set(True)
    try:
        yield
    finally:
        _asked.reset(token)


def stay_in_files() -> bool:
    """Whether weights are to stay in their files."""
    return _asked.get()


def let_go_of_files(llm: PreTrainedModel) -> None:
    """Copy unquantised weights of a quantised model: each would keep a whole file mapped."""
    for weight in llm.parameters():
        if weight.is_floating_point() and weight.device.type == "cpu":
            weight.data = weight.data.clone()


def wanted_dtype(weight: torch.Tensor) -> torch.dtype:
    """The dtype to hold `weight` in; that of its file may be narrower."""
    return getattr(weight, "wanted_dtype", weight.dtype)


def load(make: Callable[[torch.dtype], PreTrainedModel], kwargs: Mapping[str, Any]) -> PreTrainedModel:
    """The result of `make` in the precision of `kwargs` of `from_pretrained`.

    Within `weights_in_files()` the weights are mapped and have an attribute `wanted_dtype`.
    """
    dtype = kwargs["torch_dtype"]
    if not stay_in_files():
        return make(dtype)
    reason = None
    if kwargs.get("quantization_config") or getattr(kwargs["config"], "quantization_config", None):
        reason = translate("quantised weights are divided after loading")
    elif (stored := _stored_dtype(kwargs)) is None:
        reason = translate("not all of its weights are safetensors of one precision")
    elif stored.itemsize > dtype.itemsize:
        reason = translate("its files hold {stored} and {dtype} is asked for", stored=stored, dtype=dtype)
    else:
        llm = make(stored)
        if stored == dtype or all(buffer.dtype != stored for buffer in llm.buffers()):
            return _mark(llm, dtype)
        reason = translate(
            "its constants depend on the precision, and its files hold {stored}, not {dtype}",
            stored=stored,
            dtype=dtype,
        )
    path = kwargs["pretrained_model_name_or_path"]
    say_once("Each process reads {path} whole before it keeps its part: {reason}", path=path, reason=reason)
    return make(dtype)


def _mark(llm: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    stored = llm.config.dtype
    for weight in llm.parameters():
        # Some families keep a few weights in fp32.
        if weight.dtype == stored:
            weight.wanted_dtype = dtype  # type: ignore[attr-defined]
    llm.config.dtype = dtype
    return llm


def _stored_dtype(kwargs: Mapping[str, Any]) -> torch.dtype | None:
    """The dtype of all weights in the safetensors files of a model; None if there is not exactly one."""
    from safetensors import SafetensorError, safe_open

    if any(kwargs.get(name) is not None for name in _OTHER_FILES):
        return None
    kinds: set[str] = set()
    try:
        for file in _safetensors(kwargs):
            with safe_open(file, framework="pt") as opened:
                kinds |= {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None  # loading reports the error
    return _FLOATS.get(kinds.pop()) if len(kinds) == 1 else None


def _safetensors(kwargs: Mapping[str, Any]) -> list[str]:
    """The files that transformers would read, in its order of preference."""
    from transformers.utils import cached_file

    where = {name: value for name, value in kwargs.items() if name in _WHERE}

    def find(name: str) -> str | None:
        folder = kwargs["pretrained_model_name_or_path"]
        return cached_file(folder, name, _raise_exceptions_for_missing_entries=False, **where)

    if whole := find("model.safetensors"):
        return [whole]
    index = find("model.safetensors.index.json")
    named = read_json(Path(index))["weight_map"].values() if index else ()
    return [found for name in sorted(set(named)) if (found := find(name))]
