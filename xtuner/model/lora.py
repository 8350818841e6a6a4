"""LoRA on a loaded model: which layers, in which precision, frozen base untouched.

config    lora=dict(type=LoraConfig, r=64, target_modules=None)
targets   every linear layer but the output head, by the last word of its name: q_proj, ..., down_proj; of a
          model that sees or hears those of its language part, by their whole names
weights   adapters (and copies in `modules_to_save`) fp32, the base as it was loaded
"""

from __future__ import annotations

import contextlib
import copy
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xtuner.errors import ConfigError, ModelError, NotFoundError, did_you_mean
from xtuner.log import logger, say_once
from xtuner.model.language_part import language_part
from xtuner.model.mapped import wanted_dtype
from xtuner.model.state import PREFIX, adapter_key
from xtuner.model_folder import check_no_pointers
from xtuner.paths import check_adapter_path

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_HEADS = {"lm_head", "output_layer"}


def linear_layer_names(model: Any) -> list[str]:
    """Last words of the names of the linear layers that an adapter is put on where its config names none."""
    return sorted({name.rpartition(".")[2] for name in _linear_layers(model)})


def _linear_layers(model: Any) -> list[str]:
    """Names of the linear layers (quantised ones too) of the language part except the output head."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    belongs = language_part(model)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
        and module is not head
        and name.rpartition(".")[2] not in _HEADS
        and belongs(name)
    ]


def apply_lora(llm: nn.Module, lora: Any) -> nn.Module:
    """`llm` frozen, with trainable adapters as peft's `LoraConfig` says; that config is not changed."""
    from peft import get_peft_model

    cfg = copy.deepcopy(lora)
    if cfg.target_modules is None and not getattr(cfg, "target_parameters", None):
        cfg.target_modules = linear_layer_names(llm)
        if not cfg.target_modules:
            raise ConfigError(
                f"model.lora: {type(llm).__name__} has no linear layer; name target_modules yourself"
            )
    _check_targets(llm, cfg.target_modules)
    _keep_to_language(llm, cfg, asked=lora.target_modules is not None)
    if cfg.inference_mode:
        say_once("model.lora.inference_mode=True would freeze the adapter; it is trained all the same")
        cfg.inference_mode = False
    cfg.task_type = cfg.task_type or "CAUSAL_LM"
    cfg.base_model_name_or_path = None  # peft puts the model's own name
    with _without_peft_warnings():
        model = get_peft_model(llm, cfg)
    _trained_weights_to_fp32(model)
    return model


@contextlib.contextmanager
def _without_peft_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        # peft asks transformers by a name that transformers has since changed.
        warnings.filterwarnings(
            "ignore", message=".is_gradient_checkpointing. is deprecated", category=FutureWarning
        )
        yield


def _check_targets(llm: nn.Module, targets: Any) -> None:
    if targets is None or targets == "all-linear":
        return
    names = [name for name, _ in llm.named_modules() if name]
    each = [targets] if isinstance(targets, str) else [[t] for t in sorted(targets)]
    unknown = [t if isinstance(t, str) else t[0] for t in each if not any(_is_named(n, t) for n in names)]
    if unknown:
        layers = linear_layer_names(llm)
        raise ConfigError(
            f"model.lora.target_modules names {unknown[0]!r}, which this model does not have; "
            f"its linear layers are {', '.join(layers)}.{did_you_mean(unknown[0], layers)}"
        )


def _keep_to_language(llm: nn.Module, cfg: Any, asked: bool) -> None:
    """Whole names in `target_modules` where words would also name layers that see or hear.

    `asked`: the user has named them.
    """
    belongs, named = language_part(llm), cfg.target_modules
    names = [name for name, _ in llm.named_modules() if name]
    if named is None or all(map(belongs, names)):
        return
    if named == "all-linear":
        cfg.target_modules = _linear_layers(llm)
        return
    found = [n for n in names if _is_named(n, named)]
    inside = [n for n in found if belongs(n)]
    if not inside:
        raise ConfigError(
            "model.lora.target_modules names layers that see or hear alone, which text does not train; "
            f"those of the language part are {', '.join(linear_layer_names(llm))}"
        )
    if asked and len(inside) < len(found):
        say_once(
            f"model.lora.target_modules also names {len(found) - len(inside)} layers of the parts that see "
            "or hear: they are left out, since text does not train them"
        )
    cfg.target_modules = inside


def _is_named(name: str, targets: Any) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == t or name.endswith(f".{t}") for t in targets)


def _trained_weights_to_fp32(model: nn.Module) -> None:
    """peft makes adapters fp32 itself; copies in `modules_to_save` must follow and still fit in."""
    from peft.utils import ModulesToSaveWrapper

    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            dtype = wanted_dtype(next(module.original_module.parameters()))
            if dtype in (torch.float16, torch.bfloat16):
                module.modules_to_save.float()
                module.register_forward_pre_hook(_float_inputs)
                module.register_forward_hook(lambda _module, _inputs, output, dtype=dtype: output.to(dtype))
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()


def _float_inputs(module: nn.Module, inputs: tuple) -> tuple:
    return tuple(x.float() if torch.is_tensor(x) and x.is_floating_point() else x for x in inputs)


def attach_adapter(
    model: nn.Module,
    folder: str | Path,
    *,
    trainable: bool = False,
    name: str = "default",
    weights: dict[str, torch.Tensor] | None = None,
) -> nn.Module:
    """`model` with the adapter saved in `folder`; ModelError where it was made for another base.

    A model that has adapters gets one more; `set_adapter(name)` chooses between them. `weights` take the
    place of those in the folder.
    """
    from peft import PeftConfig, PeftModel, get_peft_model

    folder = Path(folder)
    weights = read_adapter(folder) if weights is None else weights
    cfg = PeftConfig.from_pretrained(str(folder))
    _warn_of_other_base(cfg.base_model_name_or_path, model, folder)
    cfg.base_model_name_or_path = None  # peft puts the name of the model it is on
    cfg.inference_mode = not trainable
    try:
        with _without_peft_warnings():
            if isinstance(model, PeftModel):
                model.add_adapter(name, cfg)
                wrapped = model
            else:
                wrapped = get_peft_model(model, cfg, adapter_name=name)
    except ValueError as error:
        raise ModelError(
            f"The adapter {folder} does not fit the base model {_name(model)}: {_first_line(error)}"
        ) from error
    load_adapter_weights(wrapped, weights, str(folder), name)
    if trainable:
        _trained_weights_to_fp32(wrapped)
    return wrapped


def read_adapter(folder: Path) -> dict[str, torch.Tensor]:
    """The weights in an adapter folder, by their names in the file."""
    check_adapter_folder(folder)
    for name in ADAPTER_FILES:
        if (folder / name).is_file():
            return read_weights(folder / name)
    raise ModelError(f"The adapter {folder} has no weights: neither {' nor '.join(ADAPTER_FILES)}")


def check_adapter_folder(folder: str | Path) -> None:
    """Raise NotFoundError or ModelError where `folder` holds no adapter."""
    check_adapter_path(folder)
    check_no_pointers(Path(folder), ["adapter_model.*"])


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.safetensors` file or of a file written by `torch.save`."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(f"{path} cannot be read as weights: {_first_line(error)}") from error


def load_adapter_weights(
    model: nn.Module, weights: dict[str, torch.Tensor], source: str, name: str = "default"
) -> None:
    """Copy an adapter file's `weights` into the adapter `name` of `model`; all must be there and fit."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    wanted = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    for key, value in wanted.items():
        if key not in weights:
            raise ModelError(
                f"The adapter {source} does not fit the base model {_name(model)}: it has no {key}"
            )
        if weights[key].shape != value.shape:
            raise ModelError(
                f"The adapter {source} was made for another base model than {_name(model)}: {key} is "
                f"{tuple(weights[key].shape)} there and {tuple(value.shape)} here"
            )
    if extra := [n for n in weights if n not in wanted and ".lora_" in n]:
        raise ModelError(
            f"The adapter {source} has {len(extra)} weights for which {_name(model)} has no layer, "
            f"as {extra[0]}"
        )
    set_peft_model_state_dict(model, weights, adapter_name=name)


def check_peft_model(path: str | Path) -> None:
    """Raise NotFoundError where there is nothing to continue from; said before a large model is loaded."""
    if not Path(path).exists():
        raise NotFoundError(f"model.peft_model = {str(path)!r}: there is no such file or folder")


def continue_from(model: nn.Module, path: str | Path) -> nn.Module:
    """`model` whose adapter now starts from `path`: an adapter folder or a checkpoint of a LoRA run."""
    path = Path(path)
    if path.is_dir():
        load_adapter_weights(model, read_adapter(path), str(path))
    else:
        saved: Any = read_weights(path)
        saved = saved.get("state_dict", saved)
        load_adapter_weights(
            model, {adapter_key(PREFIX + n.removeprefix(PREFIX)): v for n, v in saved.items()}, str(path)
        )
    logger.info(f"Load adapter from {path}")
    return model


def _warn_of_other_base(named: str | None, model: nn.Module, folder: Path) -> None:
    here = _name(model)
    if named and here and Path(named).name != Path(here).name:
        logger.warning(f"The adapter {folder} was made for {named}; it is put on {here}")


def _name(model: nn.Module) -> str:
    config = getattr(model, "config", None)
    return str(getattr(config, "_name_or_path", "") or type(model).__name__)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
