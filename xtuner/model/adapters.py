"""Adapters of peft besides LoRA on a loaded model: put on, saved and loaded as peft itself does it.

    state of a run                              what
    llm.peft_adapter.base_model.model...oft_R   the adapter as peft saves it, under the names of its file
    llm.prompt_encoder.default.mlp_head.0...    what is trained and is not in that file as it is
    llm.ranks.ipt. ...                          what AdaLoRA knows of its ranks (adaptive_ranks.py)

So a checkpoint becomes an adapter folder without the model, whatever peft computes when it saves.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xtuner.errors import ConfigError, ModelError
from xtuner.language import translate
from xtuner.log import logger, say_once
from xtuner.model import adaptive_ranks
from xtuner.model.adapter_methods import LINEAR, LORA, METHODS, PROMPT, type_of
from xtuner.model.state import PEFT_ADAPTER, PREFIX
from xtuner.model.targets import default_targets, named_modules, packed_experts

_OWN = PEFT_ADAPTER.removeprefix(PREFIX)
_FAULTS = (
    ValueError,
    TypeError,
    AttributeError,
    ImportError,
    NotImplementedError,
    RuntimeError,
    AssertionError,
)


def is_other(cfg: Any) -> bool:
    """Whether a config of peft is of another type than LoRA."""
    return type_of(cfg) != LORA


def adapter_type(llm: Any) -> str | None:
    """The type of the adapter on `llm` if it is another than LoRA, else None."""
    cfg = _active(llm)
    return type_of(cfg) if cfg is not None and is_other(cfg) else None


def virtual_tokens(llm: Any) -> int:
    """How many virtual tokens the active adapter on `llm` puts before the text; 0 while it is disabled."""
    kind = adapter_type(llm)
    if kind is None or METHODS[kind].adapts != PROMPT or getattr(llm, "_adapters_disabled", False):
        return 0
    return _active(llm).num_virtual_tokens


def _active(llm: Any) -> Any:
    """peft's config of the active adapter of `llm`; None without one."""
    found, name = getattr(llm, "peft_config", None), getattr(llm, "active_adapter", None)
    return found.get(name if isinstance(name, str) else "default") if isinstance(found, dict) else None


def apply_other(llm: nn.Module, asked: Any, task_type: str | None) -> nn.Module:
    """`llm` frozen, with a trainable adapter by the config `asked` of peft, which is not modified."""
    from peft import get_peft_model

    check_trains(asked)
    cfg = copy.deepcopy(asked)
    cfg.task_type = cfg.task_type or task_type
    cfg.base_model_name_or_path = None  # peft sets the model's name
    cfg.inference_mode = False
    _check_quantised(llm, cfg)
    _name_targets(llm, cfg)
    try:
        model: Any = get_peft_model(llm, cfg)
    except torch.OutOfMemoryError:
        raise
    except _FAULTS as error:
        raise ConfigError(_does_not_fit(cfg, llm, error)) from error
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()
    if type_of(cfg) == adaptive_ranks.TYPE:
        adaptive_ranks.begin(model)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(_does_not_fit(cfg, llm, ValueError(translate("nothing of it is trained"))))
    return model


def check_trains(cfg: Any) -> None:
    """Raise ConfigError for a type of adapter that is not trained here, with the reason."""
    kind = type_of(cfg)
    known = METHODS.get(kind)
    if known is not None and known.trains:
        return
    reason = (
        translate("it is newer than this version of XTuner") if known is None else translate(known.refused)
    )
    raise ConfigError(
        translate(
            "model.lora.type is {name}, which is not trained here: {reason}; docs/adapters.md "
            "shows those that are",
            name=type(cfg).__name__,
            reason=reason,
        )
    )


def _does_not_fit(cfg: Any, llm: nn.Module, error: Exception) -> str:
    return translate(
        "model.lora: {name} of peft does not fit {kind}: {error}",
        name=type(cfg).__name__,
        kind=type(llm).__name__,
        error=(str(error).strip().splitlines() or [type(error).__name__])[0],
    )


def _check_quantised(llm: nn.Module, cfg: Any) -> None:
    """Raise ConfigError where layers are quantised and peft has no such adapter for them."""
    if getattr(llm, "is_quantized", False) and not METHODS[type_of(cfg)].quantised:
        raise ConfigError(
            translate(
                "model.lora.type is {name}, which peft does not have for quantised weights: remove "
                "model.llm.quantization_config, or use LoraConfig",
                name=type(cfg).__name__,
            )
        )


def _name_targets(llm: Any, cfg: Any) -> None:
    """Name the linear layers of the language part in `cfg` if it names no targets."""
    asked = getattr(cfg, "target_modules", None)
    if METHODS[type_of(cfg)].adapts != LINEAR or (asked is not None and asked != "all-linear"):
        return
    found = default_targets(llm)
    if not found.layers:
        raise ConfigError(_does_not_fit(cfg, llm, ValueError(translate("it has no linear layer"))))
    words = {name.rpartition(".")[2] for name in found.layers}
    same = [n for n, _ in named_modules(llm) if n.rpartition(".")[2] in words]
    # Other layers of these names are left out, so all are named in full.
    cfg.target_modules = words if set(same) == set(found.layers) else set(found.layers)
    if packed_experts(llm):
        say_once(
            "model.lora: {name} adapts linear layers, and leaves out packed experts", name=type(cfg).__name__
        )


def attach_other(
    model: Any, cfg: Any, weights: Mapping[str, Tensor], source: str, name: str, trainable: bool
) -> Any:
    """`model` with the adapter of another type than LoRA that `cfg` and `weights` are of."""
    from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    check_trains(cfg)
    if METHODS[type_of(cfg)].adapts == PROMPT and trainable:
        what = "model.peft_model: the folder {folder} has virtual tokens without what made them: use --resume"
        raise ModelError(translate(what, folder=source))
    try:
        if isinstance(model, PeftModel):
            model.add_adapter(name, cfg)
        else:
            model = get_peft_model(model, cfg, adapter_name=name)
        set_peft_model_state_dict(model, dict(weights), adapter_name=name)
    except torch.OutOfMemoryError:
        raise
    except (*_FAULTS, KeyError) as error:
        raise ModelError(_does_not_fit(cfg, model, error)) from error
    own = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    if odd := sorted(own.keys() ^ {key for key in weights if not key.endswith(".base_layer.weight")}):
        what = "The adapter {source} does not fit the base model: {count} weights differ, such as {name}"
        raise ModelError(translate(what, source=source, count=len(odd), name=odd[0]))
    if trainable and type_of(cfg) == adaptive_ranks.TYPE:
        adaptive_ranks.begin(model)
    if trainable:
        logger.info(translate("Load adapter from {path}", path=source))
    return model


def run_state(llm: Any) -> dict[str, Tensor]:
    """What a checkpoint holds of `llm` and its adapter of another type than LoRA, by name."""
    saved = _as_saved(llm)
    held = {_place(tensor) for tensor in saved.values()}
    state = {f"{_OWN}{name}": tensor for name, tensor in saved.items()}
    for name, parameter in llm.named_parameters():
        if parameter.requires_grad and _place(parameter) not in held:
            state[name] = parameter.detach()
    return state | adaptive_ranks.state_of(llm)


@torch.no_grad()
def load_run_state(llm: Any, state: Mapping[str, Tensor]) -> None:
    """Put back what `run_state` returned."""
    for name, own in _as_saved(llm).items():
        if f"{_OWN}{name}" in state:
            own.copy_(state[f"{_OWN}{name}"])  # in the memory of the layers
    for name, parameter in llm.named_parameters():
        if name in state:
            parameter.copy_(state[name])
    adaptive_ranks.load(llm, state)


def _place(tensor: Tensor) -> tuple[int, tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape)


def _as_saved(llm: Any) -> dict[str, Tensor]:
    """The adapter under the names of its file; tensors share memory with the model where they can."""
    from peft import get_peft_model_state_dict

    with adaptive_ranks.whole(llm):
        return get_peft_model_state_dict(llm, save_embedding_layers=False)


def check_starts_from(path: str | Path) -> None:
    """Raise ConfigError: a checkpoint of an adapter of another type is resumed, or converted."""
    what = (
        "model.peft_model = {path!r} is a checkpoint, from which only LoRA continues: convert it with xtuner "
        "convert pth_to_hf and name that folder, or use --resume"
    )
    raise ConfigError(translate(what, path=str(path)))
