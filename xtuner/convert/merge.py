"""A base and its LoRA adapter as one model, streamed: one tensor in memory at a time.

    base shards ──read──> W ──+ scaling * B @ A (fp32)──> W', base's dtype ──write──> new shards, index
    config, generation_config, tokenizer, *.py ──copy──>

Where files and model differ in names or parts (names.py), tensors are made parameters, changed, and made
tensors of the files again: one expert at a time where each has its own.

An adapter that changes only one end of tied embeddings unties them: the output folder then holds
both matrices, as base + adapter have them while they run side by side.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from xtuner.chat.trained_with import CONFIG_NAME
from xtuner.convert.card import write_card
from xtuner.convert.compare import compare_logits
from xtuner.convert.folders import copy_other_files, model_folder
from xtuner.convert.llava_adapter import BesideAdapter
from xtuner.convert.lora import (
    EMBEDDINGS,
    HEADS,
    Adapter,
    Change,
    Changer,
    NotInBaseError,
    Replace,
    has_more_tokens,
    plan_changes,
    read_adapter,
)
from xtuner.convert.merge_whole import check_merges, is_other_adapter, merge_whole
from xtuner.convert.names import Names, empty_model, has_mapping, packed_targets
from xtuner.convert.output import new_folder
from xtuner.convert.progress import byte_bar
from xtuner.convert.safetensors_stream import TensorInfo
from xtuner.convert.served import serve_as_trained
from xtuner.convert.weights import Weights, parse_size, write_weights
from xtuner.devices import KINDS, accelerator
from xtuner.errors import ConfigError, ModelError
from xtuner.families import text_part
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model.adapter_methods import type_of
from xtuner.model.loading import is_native, load_config
from xtuner.model.lora import check_writes_text
from xtuner.model.vision.encoder import ENCODERS, vision_config
from xtuner.model_folder import has_tokenizer, read_json, tokenizer_files

_VISION = "vision_model."


def merge(
    base: str | Path,
    adapter: str | Path,
    save_dir: str | Path,
    max_shard_size: str | int = "2GB",
    device: str = "auto",
    is_clip: bool = False,
    safe_serialization: bool = True,
    check: bool = True,
) -> float | None:
    """Write base + adapter as a model folder; the largest difference of logits, None where not checked.

    The tensors keep the base's dtype. ModelError where the adapter was trained on another base.
    """
    where = _device(device)
    parse_size(max_shard_size)
    base_dir, adapter_dir = model_folder(base, "the base model"), model_folder(adapter, "the adapter")
    if is_other_adapter(adapter_dir) and not is_clip:
        return _merge_whole(base_dir, adapter_dir, save_dir, where, max_shard_size, safe_serialization)
    lora = read_adapter(adapter_dir)
    check_writes_text(adapter_dir)
    weights = Weights(base_dir)
    _refuse_quantised(base_dir, weights)
    plan = _plan(weights, lora, base_dir, is_clip)
    beside = BesideAdapter(adapter_dir, weights)
    infos = {**plan.infos, **beside.infos}
    total = sum(info.num_bytes for info in infos.values())
    logger.info(translate("Saving to %s..."), save_dir)
    merged = _Merged(weights, plan, Changer(lora.weights, where))
    with new_folder(save_dir, sources=(base_dir, adapter_dir), num_bytes=total) as folder:
        with byte_bar(translate("Merging"), total) as advance:

            def load(name: str) -> torch.Tensor:
                advance(infos[name].num_bytes)
                return beside[name] if name in beside else merged.load(name)

            write_weights(
                folder,
                infos,
                load,
                max_shard_size=max_shard_size,
                safe_serialization=safe_serialization,
            )
        _write_other_files(base_dir, adapter_dir, folder, plan, is_clip=is_clip)
        beside.write_config(folder)
        if not is_clip:
            write_card(folder, str(base), "merged model")
            serve_as_trained(folder)
        return compare_logits(base_dir, adapter_dir, folder, where, is_clip) if check else None


def _merge_whole(
    base: Path,
    adapter: Path,
    save_dir: str | Path,
    device: torch.device,
    max_shard_size: str | int,
    safe: bool,
) -> float:
    """As `merge`, for an adapter of another type than LoRA."""
    check_merges(adapter)
    check_writes_text(adapter)
    weights = Weights(base)
    _refuse_quantised(base, weights)
    total = sum(info.num_bytes for info in weights.infos.values())
    logger.info(translate("Saving to %s..."), save_dir)
    with new_folder(save_dir, sources=(base, adapter), num_bytes=total) as folder:
        merged = merge_whole(base, adapter, device)
        write_weights(
            folder,
            merged.infos,
            merged.tensors.__getitem__,
            max_shard_size=max_shard_size,
            safe_serialization=safe,
        )
        copy_other_files(base, folder, leave=("README.md",))
        if (adapter / CONFIG_NAME).is_file():
            (folder / CONFIG_NAME).write_bytes((adapter / CONFIG_NAME).read_bytes())
        write_card(folder, str(base), "merged model", type_of(read_json(adapter / "adapter_config.json")))
        serve_as_trained(folder)
    return merged.difference


def _device(name: str) -> torch.device:
    if name not in ("auto", *KINDS):
        raise ConfigError(
            translate("device is {name!r}: write auto, or one of {names}.", name=name, names=", ".join(KINDS))
        )
    found = accelerator()
    if name not in ("auto", "cpu", found):
        raise ConfigError(
            translate("device is {name!r}, but torch finds none here: write auto or cpu.", name=name)
        )
    return torch.device(found or "cpu") if name == "auto" else torch.device(name)


def _refuse_quantised(folder: Path, weights: Weights) -> None:
    config = _read_config(folder)
    if config.get("quantization_config") or any(".quant_state." in name for name in weights):
        raise ModelError(
            translate(
                "the weights of {folder} are quantised; an adapter is merged into the original "
                "weights. Name the folder of the model in 16 or 32 bit.",
                folder=folder,
            )
        )


@dataclass(frozen=True)
class _Plan:
    """What is written: tensors in order, what changes them, and which are read under another name.

    `converted`: what changes parameters that tensors of the files are parts of.
    """

    infos: dict[str, TensorInfo]
    changes: dict[str, Change]
    source: dict[str, str]
    untied: bool
    converted: dict[str, Change]
    names: Names | None
    rows: int | None  # of the embedding, where the adapter has more tokens


class _Merged:
    """The tensors of the merged files, read and changed one by one."""

    def __init__(self, weights: Weights, plan: _Plan, changer: Changer) -> None:
        self.weights, self.plan, self.changer = weights, plan, changer
        # Made beside the tensor that was last asked for: the up matrix of an expert beside its gate.
        self.ready: dict[str, torch.Tensor] = {}

    def load(self, name: str) -> torch.Tensor:
        """The merged tensor `name`."""
        if name in self.ready:
            return self.ready.pop(name)
        names, converted = self.plan.names, self.plan.converted
        if (
            names is not None
            and name in names.of_file
            and converted.keys() & names.of_file[name].parameters.keys()
        ):
            self.ready = self._convert(names, name)
            return self.ready.pop(name)
        tensor = self.weights[self.plan.source.get(name, name)]
        change = self.plan.changes.get(name)
        return tensor if change is None else self.changer.apply(tensor, change)

    def _convert(self, names: Names, name: str) -> dict[str, torch.Tensor]:
        group, files, first = names.beside(name)
        parameters = names.to_model(group, {file: self.weights[file] for file in files})
        for parameter in parameters.keys() & self.plan.converted.keys():
            change = self.plan.converted[parameter]
            parameters[parameter] = self.changer.apply(parameters[parameter], change, first)
        return names.to_files(group, parameters, files)


def _plan(weights: Weights, lora: Adapter, base_dir: Path, is_clip: bool) -> _Plan:
    infos = dict(weights.infos)
    if is_clip:
        infos = {name: info for name, info in infos.items() if name.startswith(_VISION)} or infos
    source: dict[str, str] = {}
    embedding = _end(infos, EMBEDDINGS)
    head = _end(infos, HEADS)
    if embedding and head is None and not is_clip:
        # A tied head has no tensor of its own; the adapter may know it by name all the same.
        name = "output.weight" if "tok_embeddings" in embedding else "lm_head.weight"
        source[name] = embedding
    tied_infos = {name: infos[e] for name, e in source.items()}
    changes, converted, names = _changes(lora, infos, tied_infos, base_dir, is_clip)
    ends = [name for name in (embedding, head, *source) if name in changes]
    tied = _read_config(base_dir).get("tie_word_embeddings", head is None)
    untied = bool(ends) and bool(tied) and not lora.config.get("ensure_weight_tying")
    if untied:
        infos |= tied_infos
        logger.warning(
            translate("the adapter changes %s of tied embeddings: the merged model holds both matrices"), ends
        )
    else:
        for name in source:
            changes.pop(name, None)
    both = [name for name in (embedding, head, *(source if untied else ())) if name]
    rows = _grow(infos, changes, lora, both, base_dir)
    return _Plan(infos, changes, source, untied, converted, names, rows)


def _grow(
    infos: dict[str, TensorInfo], changes: dict[str, Change], lora: Adapter, ends: list[str], base_dir: Path
) -> int | None:
    """Give embedding and head in `infos` the adapter's rows, where those are more; how many they are."""
    grown = {
        name: lora.weights.infos[change.key].shape
        for name, change in changes.items()
        if isinstance(change, Replace)
        and has_more_tokens(name, lora.weights.infos[change.key].shape, infos[name].shape)
    }
    infos |= {name: TensorInfo(infos[name].dtype, shape) for name, shape in grown.items()}
    if left := [name for name in ends if grown and name not in grown]:
        raise ModelError(
            translate(
                "the adapter {folder} was trained with more tokens than {base_dir} has, and holds no "
                "new rows of {name}: train with both the embedding and the head in modules_to_save",
                folder=lora.folder,
                base_dir=base_dir,
                name=left[0],
            )
        )
    return next((shape[0] for shape in grown.values()), None)


def _changes(
    lora: Adapter, infos: dict[str, TensorInfo], tied: dict[str, TensorInfo], base_dir: Path, is_clip: bool
) -> tuple[dict[str, Change], dict[str, Change], Names | None]:
    """What changes tensors of the files, what changes parameters made of several, and the names of those."""

    def by_file() -> tuple[dict[str, Change], dict[str, Change], None]:
        return plan_changes(lora, infos | tied, str(base_dir)), {}, None

    if is_clip:
        return by_file()
    if not (lora.config.get("target_parameters") or has_mapping(base_dir)):
        try:
            return by_file()
        except NotInBaseError:
            if not is_native(load_config(base_dir)):
                raise
    model = empty_model(base_dir)
    names = Names(model, infos)
    packed = packed_targets(model, lora)
    try:
        found = plan_changes(lora, names.parameters() | tied, str(base_dir), packed)
    except NotInBaseError as error:
        with contextlib.suppress(NotInBaseError):  # of a time when each expert had layers of its own
            return by_file()
        if own := names.shared_with(error.name):
            raise ModelError(
                translate(
                    "{name} is one with {own} in the base {base_dir}, and the adapter {folder} has "
                    "another change for each: no merged model can hold both. Use the adapter beside its "
                    "base.",
                    name=error.name,
                    own=own,
                    base_dir=base_dir,
                    folder=lora.folder,
                )
            ) from None
        raise
    plain, converted = {}, {}
    for name, change in found.items():
        group = names.of_parameter.get(name)
        if group is not None and group.operations:
            converted[name] = change
        else:
            plain[name if group is None else group.names()[0]] = change
    return plain, converted, names


def _end(infos: dict[str, TensorInfo], modules: tuple[str, ...]) -> str | None:
    """The tensor of the embedding or of the head, wherever the family puts it."""
    found = [name for name in infos if name.split(".")[-2:-1] and name.split(".")[-2] in modules]
    # Attention and MLP modules of old families are called `output` too, deeper in the tree.
    found = [n for n in found if n.endswith(".weight") and not any(part.isdigit() for part in n.split("."))]
    return found[0] if found else None


def _read_config(folder: Path) -> dict:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            translate("{folder} holds no config.json: it is not a model folder.", folder=folder)
        ) from None
    except ValueError as e:
        raise ModelError(translate("{path} is no JSON: {error}", path=folder / "config.json", error=e)) from e


def _write_other_files(
    base_dir: Path, adapter_dir: Path, folder: Path, plan: _Plan, *, is_clip: bool
) -> None:
    copy_other_files(base_dir, folder, leave=("README.md",))
    trained_with = adapter_dir / CONFIG_NAME
    if trained_with.is_file():
        (folder / CONFIG_NAME).write_bytes(trained_with.read_bytes())
    config = _read_config(base_dir)
    if plan.untied:
        config["tie_word_embeddings"] = False
    if plan.rows is not None:
        for file in tokenizer_files(adapter_dir):
            (folder / file.name).write_bytes(file.read_bytes())
        (text_part(config) or config)["vocab_size"] = plan.rows
    elif has_tokenizer(adapter_dir):
        logger.warning(
            translate(
                "the adapter brings a tokenizer and no rows for tokens that the base lacks: the "
                "merged model has the base's tokenizer"
            )
        )
    if is_clip and "vision_config" in config:
        family = vision_config(base_dir, "the base").model_type
        config = {**config["vision_config"], "model_type": family, "architectures": [ENCODERS[family]]}
    if config != _read_config(base_dir):
        (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
