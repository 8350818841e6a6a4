"""LoRA on a loaded model: its layers and precision; the base is frozen and unchanged.

config    lora=dict(type=LoraConfig, r=64, target_modules=None)
targets   see targets.py: every linear layer of the language part but the output head, and packed experts
weights   adapters (and copies in `modules_to_save`) fp32, the base as it was loaded
"""

from __future__ import annotations

import contextlib
import copy
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xtuner.errors import ConfigError, ModelError, NotFoundError
from xtuner.language import translate
from xtuner.llava_folder import BESIDE_ADAPTER
from xtuner.loadable import OF_VECTORS, head_of
from xtuner.log import logger, say_once
from xtuner.model import adapters, adaptive_ranks
from xtuner.model.base import base_model
from xtuner.model.fused.experts import is_on_parameter
from xtuner.model.fused.linear import is_lora
from xtuner.model.lora_config import describe, lacks, parts, resolve
from xtuner.model.mapped import wanted_dtype
from xtuner.model.state import PREFIX, adapter_key, exchanged, is_other_way_round
from xtuner.model.targets import (
    SENSES,
    Targets,
    check_targets,
    find_targets,
    linear_layer_names,
    packed_experts,
)
from xtuner.model_folder import check_no_pointers
from xtuner.paths import check_adapter_path

_SINGLE_EXPERT = re.compile(r"\.experts\.\d+\.")
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")


def apply_lora(
    llm: nn.Module, lora: Any, task_type: str | None = "CAUSAL_LM", *, exact: bool = False
) -> nn.Module:
    """`llm` frozen, with trainable adapters of a config of peft, which is not modified.

    `task_type`: of a config that has none. `exact`: layers of images and audio are adapted too if named.
    """
    if adapters.is_other(lora):
        return adapters.apply_other(llm, lora, task_type)
    cfg = copy.deepcopy(lora)
    check_targets(llm, cfg)
    targets = find_targets(llm, cfg, exact=exact)
    if not targets.layers and not targets.parameters:
        raise ConfigError(_no_targets(llm, targets))
    targets = _without_unfit_experts(llm, cfg, targets)
    if cfg.inference_mode:
        say_once("model.lora.inference_mode=True would freeze the adapter; it is trained all the same")
        cfg.inference_mode = False
    cfg.task_type = cfg.task_type or task_type
    cfg.base_model_name_or_path = None  # peft sets the model's name
    found = resolve(cfg, llm, targets)
    for line in describe(cfg, found, llm, targets):
        logger.info(line)
    model = _put_on(llm, cfg, found, targets)
    _trained_weights_to_fp32(model)
    return model


def _no_targets(llm: nn.Module, targets: Targets) -> str:
    if SENSES not in targets.left_out or not (names := linear_layer_names(llm)):
        return translate(
            "model.lora: {kind} has no linear layer; name target_modules yourself", kind=type(llm).__name__
        )
    return translate(
        "model.lora.target_modules names only layers of the vision and audio parts, which text does not "
        "train; those of the language part are {names}",
        names=", ".join(names),
    )


def _without_unfit_experts(llm: nn.Module, cfg: Any, targets: Targets) -> Targets:
    """`targets`, without packed experts if the config needs features that peft lacks for them."""
    packed = packed_experts(llm)
    experts = [name for name in targets.parameters if name in packed]
    reason = lacks(cfg) if experts else ""
    if not reason:
        return targets
    if cfg.target_parameters or not targets.layers:
        raise ConfigError(
            translate(
                "model.lora.{reason}: peft has no such adapter for {name}, which holds a layer's "
                "experts: leave it out",
                reason=reason,
                name=experts[0],
            )
        )
    rest = [name for name in targets.parameters if name not in packed]
    why = translate("packed experts, for which peft has no {reason}", reason=reason)
    return Targets(targets.layers, rest, {**targets.left_out, why: experts})


def _put_on(model: Any, asked: Any, found: Any, targets: Targets, name: str = "default") -> Any:
    """`model` with a new adapter on `targets` as the config `asked` says; `found` is that, resolved."""
    from peft import PeftModel, get_peft_model, inject_adapter_in_model

    base = model.get_base_model() if isinstance(model, PeftModel) else model
    # If a family packs experts, peft reads names of layers differently and has no dropout on experts.
    apart = bool(packed_experts(base)) or bool(targets.parameters)
    holder = nn.ModuleDict({"model": base})
    first, second = parts(asked, found, targets, "model") if apart else (found, None)
    with _without_peft_warnings():
        if isinstance(model, PeftModel):
            with _parameters_by_whole_names(model):
                model.add_adapter(name, first)
        else:
            model = get_peft_model(model, first, adapter_name=name)
        if second is not None and targets.layers:
            # A module without a config: peft does not know the family.
            inject_adapter_in_model(second, holder, name)
            _train_biases(model, second, name)
    model.peft_config[name] = found
    return model


@contextlib.contextmanager
def _parameters_by_whole_names(model: Any) -> Iterator[None]:
    """A context in which configs of adapters name parameters as `parts`: peft compares all of them."""
    base = model.get_base_model()
    before = {name: cfg.target_parameters for name, cfg in model.peft_config.items()}
    for cfg in model.peft_config.values():
        cfg.target_parameters = find_targets(base, cfg, exact=True).parameters or None
    try:
        yield
    finally:
        for name, parameters in before.items():
            model.peft_config[name].target_parameters = parameters


def _train_biases(model: nn.Module, cfg: Any, name: str) -> None:
    """Train biases of adapted layers if `cfg` says so: peft leaves those of a second part frozen."""
    for module in model.modules() if cfg.bias == "lora_only" and not cfg.inference_mode else ():
        if (
            is_lora(module)
            and name in module.lora_A
            and getattr(module.get_base_layer(), "bias", None) is not None
        ):
            module.get_base_layer().bias.requires_grad_(True)


@contextlib.contextmanager
def _without_peft_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        # peft uses a name that transformers has renamed.
        warnings.filterwarnings(
            "ignore", message=".is_gradient_checkpointing. is deprecated", category=FutureWarning
        )
        # `describe` reports the same.
        warnings.filterwarnings("ignore", message=".lora_bias=True. was passed but the targeted layer")
        # It looks for them only among modules, and an adapter has two parts.
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys did not match")
        yield


def _trained_weights_to_fp32(model: nn.Module) -> None:
    """Make copies in `modules_to_save` fp32, as peft does for adapters, with outputs in the model's dtype."""
    from peft.utils import ModulesToSaveWrapper

    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            dtype = wanted_dtype(next(module.original_module.parameters()))
            if dtype in (torch.float16, torch.bfloat16):
                module.modules_to_save.float()
                module.register_forward_pre_hook(_float_inputs)
                module.register_forward_hook(
                    lambda _module, _inputs, output, dtype=dtype: _cast(output, dtype)
                )
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()


def _cast(output: Any, dtype: torch.dtype) -> Any:
    """The output of a module in `dtype`: a tensor, or an object of transformers with several."""
    if not isinstance(output, dict):
        return output.to(dtype)
    changed = {n: v.to(dtype) for n, v in output.items() if torch.is_tensor(v) and v.is_floating_point()}
    return type(output)(**{**output, **changed})


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
    """`model` with the adapter saved in `folder`; ModelError if it was trained on another base.

    A model with adapters gets another one; `set_adapter(name)` selects one. `weights` replace those in the
    folder.
    """
    from peft import PeftConfig

    folder = Path(folder)
    if weights is None:
        check_is_all(folder, _name(model))
        weights = read_adapter(folder)
    cfg = PeftConfig.from_pretrained(str(folder))
    _warn_of_other_base(cfg.base_model_name_or_path, model, folder)
    cfg.base_model_name_or_path = None  # peft sets the name of the current model
    cfg.inference_mode = not trainable
    if adapters.is_other(cfg):
        return adapters.attach_other(model, cfg, weights, str(folder), name, trainable)
    try:
        if has_single_experts(weights) and packed_experts(model):
            wrapped, weights = _with_joined_experts(model, cfg, weights, name)
        else:
            wrapped = add_adapter(model, cfg, name)
    except ValueError as error:
        raise ModelError(
            translate(
                "The adapter {folder} does not fit the base model {base}: {error}",
                folder=folder,
                error=_first_line(error),
                base=_name(model),
            )
        ) from error
    load_adapter_weights(wrapped, _as_here(wrapped, weights, cfg), str(folder), name)
    if trainable:
        _trained_weights_to_fp32(wrapped)
    return wrapped


def has_single_experts(weights: Iterable[str]) -> bool:
    """Whether names in an adapter file are of separate layers for each expert."""
    return any(_SINGLE_EXPERT.search(name) for name in weights)


def _with_joined_experts(
    model: Any, cfg: Any, weights: dict[str, torch.Tensor], name: str
) -> tuple[Any, dict[str, torch.Tensor]]:
    """An adapter on separate layers for each expert, joined for packed experts as peft does it."""
    from peft import PeftModel, get_peft_model
    from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers

    with _without_peft_warnings():
        if isinstance(model, PeftModel):
            model.add_adapter(name, cfg)
        else:
            model = get_peft_model(model, cfg, adapter_name=name)
    return model, convert_peft_adapter_state_dict_for_transformers(
        model, model.peft_config[name], weights, name
    )


def _as_here(model: nn.Module, weights: dict[str, torch.Tensor], cfg: Any) -> dict[str, torch.Tensor]:
    """`weights` with adapters of packed experts in the layout of the installed peft."""
    found = dict(weights)
    for name, module in model.named_modules():
        if not is_on_parameter(module) or module.num_experts == 1:
            continue
        transposed = bool(getattr(module.get_base_layer(), "is_transposed", False))
        a, b = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
        if is_other_way_round(cfg.peft_version, transposed) and a in found and b in found:
            found[a], found[b] = exchanged(found[a], found[b], module.num_experts)
    return found


def add_adapter(model: Any, cfg: Any, name: str = "default") -> Any:
    """`model` with an adapter by the config of a saved one, which names all of its targets."""
    base = base_model(model)
    return _put_on(model, cfg, cfg, find_targets(base, cfg, exact=True), name)


def read_adapter(folder: Path) -> dict[str, torch.Tensor]:
    """The weights in an adapter folder, by their names in the file."""
    check_adapter_folder(folder)
    for name in ADAPTER_FILES:
        if (folder / name).is_file():
            return read_weights(folder / name)
    raise ModelError(
        translate(
            "The adapter {folder} has no weights: none of {names}",
            folder=folder,
            names=", ".join(ADAPTER_FILES),
        )
    )


def check_adapter_folder(folder: str | Path) -> None:
    """Raise NotFoundError or ModelError if `folder` is not an adapter."""
    check_adapter_path(folder)
    check_no_pointers(Path(folder), ["adapter_model.*"])


def check_is_all(folder: str | Path, base: str | Path) -> None:
    """Raise ModelError if there are weights beside the adapter, as in folders of the package `llava`."""
    if (Path(folder) / BESIDE_ADAPTER).is_file():
        what = (
            "The adapter {folder} has weights beside it, {file}, as adapters of the package llava: make one "
            "model of all with xtuner convert merge {base} {folder} OUT"
        )
        raise ModelError(translate(what, folder=folder, file=BESIDE_ADAPTER, base=base))


def check_writes_text(folder: str | Path) -> None:
    """Raise ModelError where the adapter is that of a model that scores texts, or makes vectors of them."""
    head = head_of(folder)
    if head == OF_VECTORS:
        what = (
            "The adapter {folder} is one of a model that makes vectors of texts and does not write any: load "
            "it with SentenceTransformer of sentence-transformers"
        )
        raise ModelError(translate(what, folder=folder))
    if head is not None:
        what = (
            "The adapter {folder} is one of a model that scores texts and does not write any: load it with "
            "AutoPeftModelFor{head} of peft"
        )
        raise ModelError(translate(what, folder=folder, head=head))


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.safetensors` file or of a file written by `torch.save`."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(
            translate("{path} cannot be read as weights: {error}", path=path, error=_first_line(error))
        ) from error


def load_adapter_weights(
    model: nn.Module, weights: dict[str, torch.Tensor], source: str, name: str = "default"
) -> None:
    """Copy an adapter file's `weights` into the adapter `name` of `model`; names and shapes must match."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    wanted = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    for key, value in wanted.items():
        if key not in weights:
            raise ModelError(
                translate(
                    "The adapter {source} does not fit the base model {base}: it has no {key}",
                    source=source,
                    key=key,
                    base=_name(model),
                )
            )
        if weights[key].shape != value.shape:
            raise ModelError(
                translate(
                    "The adapter {source} was made for another base model than {base}: {key} is "
                    "{there} there and {here} here",
                    source=source,
                    key=key,
                    base=_name(model),
                    there=tuple(weights[key].shape),
                    here=tuple(value.shape),
                )
            )
    if extra := [n for n in weights if n not in wanted and ".lora_" in n]:
        raise ModelError(
            translate(
                "The adapter {source} has {count} weights for layers that {base} does not have, such "
                "as {name}",
                source=source,
                count=len(extra),
                base=_name(model),
                name=extra[0],
            )
        )
    set_peft_model_state_dict(model, weights, adapter_name=name)
    with torch.no_grad():
        # peft renames weights as transformers does for old files; some names then do not match.
        for key, value in wanted.items():
            value.copy_(weights[key])


def check_peft_model(path: str | Path) -> None:
    """Raise NotFoundError if there is nothing to continue from, before a large model is loaded."""
    if not Path(path).exists():
        raise NotFoundError(
            translate("model.peft_model = {path!r}: there is no such file or folder", path=str(path))
        )


def is_adapter_folder(path: str | Path) -> bool:
    """Whether `path` is an adapter folder, which includes the settings."""
    return (Path(path) / "adapter_config.json").is_file()


def tell_unused_settings(asked: Any, folder: str | Path) -> None:
    """Log the settings of `model.lora` that differ from those of the adapter to continue from."""
    from peft import PeftConfig

    saved = PeftConfig.from_pretrained(str(folder))
    if adapters.is_other(saved):
        if asked is not None and type(asked) is not type(saved):
            what = "model.lora is not used with model.peft_model = {folder!r}, an adapter of {name}"
            say_once(what, folder=str(folder), name=type(saved).__name__)
        return
    logger.info(translate("Load adapter from %s, with its own settings: r=%d"), folder, saved.r)
    names = ("r", "lora_alpha", "lora_dropout", "target_modules", "use_dora", "use_rslora", "modules_to_save")
    other = [
        translate(
            "{setting}={value!r} (the adapter's is {own!r})",
            setting=name,
            value=getattr(asked, name),
            own=getattr(saved, name),
        )
        for name in names
        if getattr(asked, name, None) not in (None, getattr(saved, name))
    ]
    if other:
        say_once(
            "model.lora is not used with model.peft_model = {folder!r}: {others}",
            folder=str(folder),
            others=", ".join(other),
        )


def adapter_config(model: Any) -> str:
    """The content of adapter_config.json for the adapter of `model`."""
    cfg = copy.copy(model.peft_config["default"])
    cfg.inference_mode = True
    if adaptive_ranks.has_ranks(model):
        cfg.rank_pattern = None  # all ranks are saved; those that are left out are zero
    with tempfile.TemporaryDirectory() as folder:
        cfg.save_pretrained(folder)
        return (Path(folder) / ADAPTER_CONFIG).read_text("utf-8")


def continue_from(model: nn.Module, path: str | Path) -> nn.Module:
    """`model` with the adapter weights of the checkpoint `path` of a LoRA run."""
    if adapters.adapter_type(model) is not None:
        adapters.check_starts_from(path)
    saved: Any = read_weights(Path(path))
    saved = saved.get("state_dict", saved)
    load_adapter_weights(
        model, {adapter_key(PREFIX + n.removeprefix(PREFIX)): v for n, v in saved.items()}, str(path)
    )
    logger.info(translate("Load adapter from {path}", path=path))
    return model


def _warn_of_other_base(named: str | None, model: nn.Module, folder: Path) -> None:
    here = _name(model)
    if named and here and Path(named).name != Path(here).name:
        logger.warning(
            translate(
                "The adapter {folder} was made for {named}; it is put on {here} here",
                folder=folder,
                named=named,
                here=here,
            )
        )


def _name(model: nn.Module) -> str:
    config = getattr(model, "config", None)
    return str(getattr(config, "_name_or_path", "") or type(model).__name__)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
