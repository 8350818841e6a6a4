"""A base and an adapter of another type than LoRA as one model, by peft's own merge, in memory.

    base, fp32  +  adapter  --peft: merge_and_unload-->  W'  --base's dtype-->  shards, index

Their changes of a weight are peft's to compute: rotations, Fourier series, shared vectors. So the whole base
is in memory in fp32, once, unlike LoRA's merge, which streams it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from xtuner.convert.compare import logits_of
from xtuner.convert.safetensors_stream import TensorInfo
from xtuner.convert.weights import Weights
from xtuner.errors import ModelError
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model.adapter_methods import METHODS, type_of
from xtuner.model.loading import auto_class_of, load_config
from xtuner.model.lora import attach_adapter
from xtuner.model_folder import read_json


@dataclass(frozen=True)
class MergedWhole:
    """The tensors of the base's files, merged; the largest difference of logits to base + adapter."""

    tensors: dict[str, torch.Tensor]
    infos: dict[str, TensorInfo]
    difference: float


def is_other_adapter(folder: Path) -> bool:
    """Whether `folder` holds an adapter of another type than LoRA."""
    path = folder / "adapter_config.json"
    return path.is_file() and type_of(read_json(path)) != "LORA"


def check_merges(folder: Path) -> None:
    """Raise ModelError where peft cannot merge this type of adapter."""
    kind = type_of(read_json(folder / "adapter_config.json"))
    method = METHODS.get(kind)
    if method is None or not method.trains or not method.merges:
        what = "{folder}: adapters of type {kind} cannot be merged into a model: use it beside its base"
        raise ModelError(translate(what, folder=folder, kind=kind))


@torch.no_grad()
def merge_whole(base: Path, adapter: Path, device: torch.device) -> MergedWhole:
    """`base` with `adapter`, merged by peft in fp32 on `device`."""
    check_merges(adapter)
    config = load_config(base)
    family: Any = auto_class_of(config, base)
    model: Any = family.from_pretrained(base, config=config, dtype=torch.float32, local_files_only=True)
    model = attach_adapter(model.to(device), adapter)
    model.eval()
    vocabulary = model.get_input_embeddings().weight.shape[0]
    beside = logits_of(model, vocabulary, device)
    try:
        merged = model.merge_and_unload()
    except (ValueError, NotImplementedError, TypeError) as error:
        what = "{folder} cannot be merged into a model: {error}"
        raise ModelError(translate(what, folder=adapter, error=str(error).splitlines()[0])) from error
    difference = (logits_of(merged.eval(), vocabulary, device) - beside).abs().max().item()
    logger.info(translate("merged against base + adapter: largest difference of logits %.3g"), difference)
    tensors = _as_files(merged, base)
    return MergedWhole(
        tensors, {n: TensorInfo(t.dtype, tuple(t.shape)) for n, t in tensors.items()}, difference
    )


def _as_files(model: Any, base: Path) -> dict[str, torch.Tensor]:
    """The weights of `model` under the names and in the dtypes of the files of `base`."""
    from transformers.core_model_loading import revert_weight_conversion

    state = {n: t.cpu() for n, t in revert_weight_conversion(model, model.state_dict()).items()}
    infos = Weights(base).infos
    if missing := [name for name in infos if name not in state]:
        what = "{base} holds {name}, which its model in transformers does not have: the adapter is not merged"
        raise ModelError(translate(what, base=base, name=missing[0]))
    return {name: state[name].to(info.dtype).contiguous() for name, info in infos.items()}
