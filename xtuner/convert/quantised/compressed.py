"""A model folder with its linear layers in 8 or 4 bits, in the form of compressed-tensors.

    model.layers.0.mlp.up_proj.weight   bf16  ->  ...up_proj.weight        float8
                                                  ...up_proj.weight_scale  bf16
    model.embed_tokens.weight           bf16  ->  the same; heads, norms, image encoders too
    config.json                               ->  with quantization_config

transformers (with the package compressed-tensors), vLLM and SGLang read such folders. Weights are rounded to
the nearest code, without data; tensors are read, rounded and written one by one.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xtuner import llava_folder, loadable
from xtuner.convert.card import write_card
from xtuner.convert.choices import GROUP_SIZES, ROUNDED
from xtuner.convert.compare import SPACE
from xtuner.convert.folders import copy_other_files, merged_folder
from xtuner.convert.names import Names, empty_model
from xtuner.convert.output import new_folder
from xtuner.convert.progress import byte_bar
from xtuner.convert.quality import Quality, Text, log_loss_of, logits_of_model, measured, read_text
from xtuner.convert.quantised.rounding import MATRICES, Scheme
from xtuner.convert.safetensors_stream import TensorInfo
from xtuner.convert.weights import Weights, parse_size, write_weights
from xtuner.errors import ConfigError, ModelError
from xtuner.estimate.machine import free_memory
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model.base import layers_of
from xtuner.model.loading import load_config
from xtuner.model_folder import check_model_folder, read_json

_WEIGHT = "weight"
_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def quantize(
    model: str | Path,
    out: str | Path,
    format: str = "fp8",
    *,
    group_size: int | None = None,
    symmetric: bool = True,
    max_shard_size: str | int = "2GB",
    text: str | Path | None = None,
    check: bool = True,
) -> tuple[Quality, Quality] | None:
    """Write the model folder `model`, rounded, as `out`; its quality before and after, None if not checked.

    `group_size` of w4a16: by default the largest of 128, 64, 32 that divides the width of every layer.
    `text`: a file whose perplexity is measured before and after.
    """
    _check_format(format, group_size, symmetric)
    parse_size(max_shard_size)
    source = merged_folder(model, "the model")
    check_model_folder(source)
    _check_source(source)
    weights = Weights(source)
    empty = empty_model(source)
    names = Names(empty, weights.infos)
    layers = _layers(names, weights)
    scheme = Scheme(format, _group_size(layers, weights, group_size) if format == "w4a16" else 0, symmetric)
    words = read_text(text, source, _context(empty)) if text is not None and check else None
    plan = _Plan(weights, {f"{layer.file}.{_WEIGHT}" for layer in layers}, scheme)
    total = sum(info.num_bytes for info in plan.infos.values())
    _log_plan(layers, empty, weights, total, scheme)
    with new_folder(out, sources=(source,), num_bytes=total) as folder:
        with byte_bar(translate("Rounding"), total) as advance:

            def load(name: str) -> torch.Tensor:
                advance(plan.infos[name].num_bytes)
                return plan[name]

            write_weights(folder, plan.infos, load, max_shard_size=max_shard_size)
        copy_other_files(source, folder, leave=("README.md",))
        _write_config(folder, scheme.config(_left(names, layers)))
        write_card(folder, str(model), "quantised model")
        return _compare(source, folder, layers, scheme, empty, words) if check else None


@dataclass(frozen=True)
class _Layer:
    """A linear layer that is rounded: its name in the model and in the files."""

    module: str
    file: str


def _check_format(name: str, group_size: int | None, symmetric: bool) -> None:
    if name not in ROUNDED:
        what = "--format is {name!r}: write one of {known}"
        raise ConfigError(translate(what, name=name, known=", ".join(ROUNDED)))
    if name != "w4a16" and (group_size is not None or not symmetric):
        option = "--group-size" if group_size is not None else "--asymmetric"
        raise ConfigError(translate("{option} is for --format w4a16: leave it out", option=option))
    if group_size is not None and group_size not in GROUP_SIZES:
        what = "--group-size is {size}: write one of {known}"
        raise ConfigError(translate(what, size=group_size, known=", ".join(map(str, GROUP_SIZES))))


def _check_source(source: Path) -> None:
    config = read_json(source / "config.json")
    if llava_folder.is_official(config):
        raise ModelError(
            translate(
                "{folder} is a folder of the package llava, whose programs do not read compressed-tensors: "
                "make one of transformers of it first",
                folder=source,
            )
        )
    if method := loadable.quantised_by(config):
        raise ModelError(
            translate(
                "the weights of {folder} are quantised already, by {method}: name the folder of the model in "
                "16 or 32 bit",
                folder=source,
                method=method,
            )
        )


def _layers(names: Names, weights: Weights) -> list[_Layer]:
    """The linear layers within the layers of the language model, in order."""
    inside = {id(module) for layer in layers_of(names.model) for module in layer.modules()}
    found = []
    for name, module in _language_part(names.model):
        if id(module) not in inside:
            continue
        _refuse_experts(name, module, weights)
        if not isinstance(module, nn.Linear):
            continue
        group = names.of_parameter.get(f"{name}.{_WEIGHT}")
        if group is None or group.operations:
            what = "{folder}: the weight of {name} is no tensor of the files, and cannot be rounded by itself"
            raise ModelError(translate(what, folder=weights.folder, name=name))
        file = group.names()[0]
        if weights.infos[file].dtype not in _TYPES:
            what = "{folder}: {name} is {dtype}: only weights in 16 or 32 bit are rounded"
            raise ModelError(
                translate(what, folder=weights.folder, name=file, dtype=weights.infos[file].dtype)
            )
        found.append(_Layer(name, file.removesuffix(f".{_WEIGHT}")))
    if not found:
        what = "{folder} has no linear layers to round"
        raise ModelError(translate(what, folder=weights.folder))
    return found


def _language_part(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """Names and modules of the language model: without what sees or hears."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    inside = {id(module) for module in decoder.modules()}
    return ((name, module) for name, module in model.named_modules() if id(module) in inside)


def _refuse_experts(name: str, module: nn.Module, weights: Weights) -> None:
    if any(parameter.dim() > 2 for parameter in module.parameters(recurse=False) if "expert" in name):
        what = (
            "{folder} has experts ({name}), most of its weights, which cannot be written in this format: use "
            "xtuner convert gguf if it knows the family"
        )
        raise ModelError(translate(what, folder=weights.folder, name=name))


def _group_size(layers: list[_Layer], weights: Weights, asked: int | None) -> int:
    """The group size of all layers; ModelError where a width is no multiple of it."""
    widths = {layer: weights.infos[f"{layer.file}.{_WEIGHT}"].shape[-1] for layer in layers}
    for size in (asked,) if asked else GROUP_SIZES:
        if all(width % size == 0 for width in widths.values()):
            if size != (asked or GROUP_SIZES[0]):
                logger.info(
                    translate(
                        "groups of {size} columns: some layers' width is no multiple of {usual}",
                        size=size,
                        usual=GROUP_SIZES[0],
                    )
                )
            return size
    size = asked or GROUP_SIZES[-1]
    layer, width = next((layer, width) for layer, width in widths.items() if width % size)
    what = "{name} has {width} columns, no multiple of {size}: {cure}"
    smaller = [str(n) for n in GROUP_SIZES if n < size and all(w % n == 0 for w in widths.values())]
    cure = f"--group-size {smaller[0]}" if smaller else "--format fp8, --format int8"
    raise ModelError(translate(what, name=layer.file, width=width, size=size, cure=cure))


def _left(names: Names, layers: list[_Layer]) -> list[str]:
    """Linear layers that stay as they are, by their names in the model and in the files: both are in use."""
    rounded = {layer.module for layer in layers}
    left: list[str] = []
    for name, module in names.model.named_modules():
        if isinstance(module, nn.Linear) and name not in rounded:
            group = names.of_parameter.get(f"{name}.{_WEIGHT}")
            files = [] if group is None else group.names()
            left += [name, *(file.removesuffix(f".{_WEIGHT}") for file in files)]
    return list(dict.fromkeys(left))


def _context(model: Any) -> int | None:
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


class _Plan(Mapping[str, torch.Tensor]):
    """The tensors of the new files by name; `[name]` reads the old one and rounds it."""

    def __init__(self, weights: Weights, rounded: set[str], scheme: Scheme) -> None:
        self._weights, self._scheme = weights, scheme
        self.infos: dict[str, TensorInfo] = {}
        self._origin: dict[str, str] = {}
        self._ready: dict[str, torch.Tensor] = {}
        for name, info in weights.infos.items():
            if name not in rounded:
                self.infos[name] = info
                continue
            for end, made in scheme.infos(info).items():
                self.infos[name.removesuffix(_WEIGHT) + end] = made
                self._origin[name.removesuffix(_WEIGHT) + end] = name

    def __getitem__(self, name: str) -> torch.Tensor:
        if (origin := self._origin.get(name)) is None:
            return self._weights[name]
        if name not in self._ready:
            made = self._scheme.round(self._weights[origin])
            prefix = origin.removesuffix(_WEIGHT)
            # A file has the tensors of wide types first: those of a layer are not asked for together. What is
            # small is kept until then; a matrix is rounded again.
            self._ready |= {
                prefix + end: tensor
                for end, tensor in made.items()
                if prefix + end == name or end not in MATRICES
            }
        return self._ready.pop(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)


def _log_plan(layers: list[_Layer], model: Any, weights: Weights, total: int, scheme: Scheme) -> None:
    before = sum(info.num_bytes for info in weights.infos.values())
    num_linear = sum(isinstance(module, nn.Linear) for module in model.modules())
    logger.info(
        translate(
            "{format}: {count} linear layers are rounded, {others} others stay as they are; {before:.1f} MB "
            "of weights become {after:.1f} MB",
            format=scheme.name,
            count=len(layers),
            others=num_linear - len(layers),
            before=before / 1e6,
            after=total / 1e6,
        )
    )


def _write_config(folder: Path, quantization: dict[str, Any]) -> None:
    path = folder / "config.json"
    config = {**read_json(path), "quantization_config": quantization}
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _compare(
    source: Path, folder: Path, layers: list[_Layer], scheme: Scheme, empty: Any, text: Text | None
) -> tuple[Quality, Quality] | None:
    """Run the model as it was and as the files of `folder` have it, and log the difference."""
    needed = 4 * SPACE * sum(parameter.numel() for parameter in empty.parameters())
    if needed > (free := free_memory()):
        logger.warning(
            translate(
                "not compared: that needs {needed:.1f} GB, {free:.1f} GB are free. The folder is complete.",
                needed=needed / 1e9,
                free=free / 1e9,
            )
        )
        return None
    model: Any = type(empty).from_pretrained(
        source, config=load_config(source), dtype=torch.float32, local_files_only=True
    )
    run = logits_of_model(model.eval())
    vocabulary = model.get_input_embeddings().weight.shape[0]
    before = measured(run, vocabulary, text)
    round_in_place(model, folder, layers, scheme)
    after = measured(run, vocabulary, text)
    del model, run
    gc.collect()
    log_loss_of(before, after, text, scheme.name)
    return before, after


@torch.no_grad()
def round_in_place(model: Any, folder: Path, layers: list[_Layer], scheme: Scheme) -> None:
    """Give `model` the rounded weights of `folder`, and layers that round their inputs as the programs do."""
    stored = Weights(folder)

    def rounded_first(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (scheme.rounded_inputs(args[0]), *args[1:])

    for layer in layers:
        module = model.get_submodule(layer.module)
        parts = scheme.infos(TensorInfo(module.weight.dtype, tuple(module.weight.shape)))
        module.weight.copy_(scheme.restored({end: stored[f"{layer.file}.{end}"] for end in parts}))
        if scheme.rounds_inputs:
            module.register_forward_pre_hook(rounded_first)
