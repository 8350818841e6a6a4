"""Map the tensors of a model's files to the model's parameters, and back.

    files                                   parameters of the model
    language_model.model.norm.weight   ──   model.language_model.norm.weight           renamed
    ...mlp.experts.0.gate_proj.weight  ┐
    ...mlp.experts.0.up_proj.weight    ├    ...mlp.experts.gate_up_proj [2, out, in]   stacked and joined
    ...mlp.experts.1.gate_proj.weight  │
    ...mlp.experts.1.up_proj.weight    ┘

The mappings are those of transformers (conversion_mapping.py), in both directions. Experts with separate
tensors in the files are converted one by one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from xtuner import loadable
from xtuner.convert.lora import Adapter, Packed
from xtuner.convert.safetensors_stream import TensorInfo
from xtuner.errors import ModelError
from xtuner.families import text_part
from xtuner.language import translate
from xtuner.model.fused.experts import is_on_parameter
from xtuner.model.loading import auto_class_of, load_config, register_families
from xtuner.model.lora import add_adapter
from xtuner.model.vision.encoder import ENCODERS
from xtuner.model_folder import read_json


def empty_model(folder: Path) -> Any:
    """The model of a folder on the meta device, without weights."""
    import transformers

    config, head = load_config(folder), loadable.head_of(folder)
    if encoder := ENCODERS.get(config.model_type):
        with torch.device("meta"):
            return getattr(transformers, encoder)(config)
    name = "AutoModel" if head == loadable.OF_VECTORS else f"AutoModelFor{head}"
    kind = auto_class_of(config, folder) if head is None else getattr(transformers, name)
    with torch.device("meta"):
        return kind.from_config(config)


def has_mapping(folder: Path) -> bool:
    """Whether transformers renames or converts the tensors of that family's files."""
    from transformers import CONFIG_MAPPING
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    register_families()
    config = read_json(folder / "config.json")
    text = text_part(config) or {}
    kinds = {config.get("model_type"), text.get("model_type"), *(config.get("architectures") or ())}
    known = config.get("model_type") in CONFIG_MAPPING
    return known and any(get_checkpoint_conversion_mapping(kind) for kind in kinds if kind)


@dataclass
class Group:
    """Tensors of files and the parameters that are made of them.

    `files`: pattern of transformers' mapping -> names, in order; `operations`: those of that mapping, none
    if the tensor is the parameter.
    """

    first: str
    transform: Any = None
    operations: list[Any] = field(default_factory=list)
    files: dict[str, list[str]] = field(default_factory=dict)
    parameters: dict[str, torch.Size] = field(default_factory=dict)

    def names(self) -> list[str]:
        """The names of its tensors in the files."""
        return [name for names in self.files.values() for name in names]

    def is_by_expert(self) -> bool:
        """Whether each expert has separate tensors in the files, so that it can be converted alone."""
        from transformers.core_model_loading import MergeModulelist

        first, *others = self.operations or [None]
        by_dim = isinstance(first, MergeModulelist) and first.dim == 0
        return by_dim and all(min(_dims(op), default=0) > 0 for op in others)


def _dims(operation: Any) -> list[int]:
    return [getattr(operation, name) for name in ("dim", "dim0", "dim1") if hasattr(operation, name)]


class Names:
    """The groups of a model, by names of parameters and by names in the files."""

    def __init__(self, model: Any, infos: Mapping[str, TensorInfo]) -> None:
        self.model = model
        self.infos = infos
        self.state = model.state_dict()
        groups = self._groups()
        self.of_parameter = {name: group for group in groups for name in group.parameters}
        self.of_file = {name: group for group in groups for name in group.names()}

    def _groups(self) -> list[Group]:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            dot_natural_key,
            rename_source_key,
        )

        mapping = get_model_conversion_mapping(self.model)
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        converter_of = {pattern: entry for entry in converters for pattern in entry.source_patterns}
        prefix = self.model.base_model_prefix
        groups: dict[str, Group] = {}
        for file in sorted(self.infos, key=dot_natural_key):
            name, pattern = rename_source_key(file, renamings, converters, prefix, self.state)
            if name not in self.state and file in self.state:  # the files have the model's names already
                name, pattern = rename_source_key(file, [], [], prefix, self.state)
            if name not in self.state:
                continue
            group = groups.setdefault(name, Group(name, converter_of.get(pattern or "")))
            group.files.setdefault(pattern or file, []).append(file)
        for group in groups.values():
            self._complete(group)
        return list(groups.values())

    def _complete(self, group: Group) -> None:
        """Set the group's operations and parameters, by converting tensors without data."""
        if group.transform is None:
            group.parameters = {group.first: self.state[group.first].shape}
            return
        # The order of the mapping is the order of rows in joined matrices.
        group.files = {p: group.files[p] for p in group.transform.source_patterns if p in group.files}
        settled = (self._settled(operation, group) for operation in group.transform.operations)
        group.operations = [operation for operation in settled if operation is not None]
        empty = {name: torch.empty(self.infos[name].shape, device="meta") for name in group.names()}
        group.parameters = {name: tensor.shape for name, tensor in self.to_model(group, empty).items()}

    def _settled(self, operation: Any, group: Group) -> Any:
        """An operation that depends on shapes, fixed for these files; None if it does nothing."""
        if not getattr(operation, "check_dims", False):
            return operation
        if self.infos[group.names()[0]].shape == self.state[group.first].shape:
            return None
        settled = copy.copy(operation)
        settled.check_dims = False
        return settled

    def shared_with(self, name: str) -> str:
        """The parameter in the files that is tied to `name`; `""` if there is none."""
        every = dict(self.model.named_parameters(remove_duplicate=False))
        same = (own for own, p in every.items() if p is every.get(name) and own in self.of_parameter)
        return next(same, "")

    def parameters(self) -> dict[str, TensorInfo]:
        """The parameters that the files hold."""
        return {
            name: TensorInfo(self.infos[group.names()[0]].dtype, tuple(shape))
            for group in {id(g): g for g in self.of_parameter.values()}.values()
            for name, shape in group.parameters.items()
        }

    def beside(self, file: str) -> tuple[Group, list[str], int]:
        """The group of `file`, the names to convert with it, and the number of its expert, else 0."""
        group = self.of_file[file]
        if not group.is_by_expert():
            return group, group.names(), 0
        index = next(names.index(file) for names in group.files.values() if file in names)
        return group, [names[index] for names in group.files.values()], index

    def to_model(self, group: Group, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The parameters made of `tensors` of the files: of some experts or of all."""
        if not group.operations:
            (tensor,) = tensors.values()
            return {group.first: tensor}
        given = {
            pattern: [tensors[name] for name in names if name in tensors]
            for pattern, names in group.files.items()
        }
        made = self._run(group.operations, given, group.transform, group.first)
        full = group.first.replace("*.", "0.")
        prefix, _, suffix = next(full.partition(key) for key in made if key in full)
        return {prefix + key + suffix: tensor for key, tensor in made.items()}

    def to_files(
        self, group: Group, tensors: Mapping[str, torch.Tensor], names: Iterable[str]
    ) -> dict[str, torch.Tensor]:
        """The tensors of the files `names`, made of the parameters `tensors`: the reverse of `to_model`."""
        if not group.operations:
            return dict(zip(names, tensors.values(), strict=True))
        back = group.transform.reverse_transform()
        given = {pattern: [t] for pattern, t in zip(back.source_patterns, tensors.values(), strict=True)}
        operations = [operation.reverse_op for operation in reversed(group.operations)]
        made = self._run(operations, given, back, group.first)
        wanted, found = set(names), {}
        for pattern, own in zip(group.transform.source_patterns, back.target_patterns, strict=True):
            for i, file in enumerate(name for name in group.files.get(pattern, ()) if name in wanted):
                found[file] = made[own.replace("*", str(i))]
        return found

    def _run(
        self, operations: Iterable[Any], given: dict[str, Any], patterns: Any, name: str
    ) -> dict[str, torch.Tensor]:
        tensors: dict[str, Any] = given
        for operation in operations:
            tensors = operation.convert(
                tensors,
                source_patterns=patterns.source_patterns,
                target_patterns=patterns.target_patterns,
                full_layer_name=name,
                model=self.model,
                config=self.model.config,
                missing_keys=None,
            )
        return {key: value[0] if isinstance(value, list) else value for key, value in tensors.items()}


class AsFiles(Mapping[str, torch.Tensor]):
    """The parameters `state` of a model as the tensors that transformers' `save_pretrained` writes.

    The tensors of a parameter are made when the first of them is read.
    """

    def __init__(
        self, model: Any, state: Mapping[str, torch.Tensor], infos: Mapping[str, TensorInfo]
    ) -> None:
        self._model, self._state = model, state
        empty = {n: torch.empty(i.shape, dtype=i.dtype, device="meta") for n, i in infos.items()}
        self._origin: dict[str, list[str]] = {}
        made = {}
        for name, tensor in empty.items():
            for file, part in self._reverted({name: tensor}).items():
                self._origin[file] = [name]
                made[file] = part
        whole = self._reverted(empty)
        if {n: t.shape for n, t in made.items()} != {n: t.shape for n, t in whole.items()}:
            # Some file holds several parameters.
            self._origin, made = {name: [*infos] for name in whole}, whole
        self.infos = {name: TensorInfo(part.dtype, tuple(part.shape)) for name, part in made.items()}
        self._ready: dict[str, torch.Tensor] = {}

    def _reverted(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        from transformers.core_model_loading import revert_weight_conversion

        return revert_weight_conversion(self._model, tensors)

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._ready:
            self._ready = self._reverted({own: self._state[own] for own in self._origin[name]})
        return self._ready.pop(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)


def config_of(adapter: Adapter) -> Any:
    """peft's config of an adapter, for any model that it fits."""
    from peft import LoraConfig

    known = {key: value for key, value in adapter.config.items() if key in LoraConfig.__dataclass_fields__}
    return LoraConfig(**{**known, "inference_mode": True, "base_model_name_or_path": None})


def packed_targets(model: Any, adapter: Adapter) -> dict[str, Packed]:
    """Names of the modules of `adapter` that adapt packed parameters of `model` -> these parameters."""
    if not adapter.config.get("target_parameters"):
        return {}
    try:
        with torch.device("meta"):
            wrapped = add_adapter(model, config_of(adapter))
    except ValueError as error:
        named = adapter.config.get("base_model_name_or_path")
        raise ModelError(
            translate(
                "the adapter {folder} was trained on another base ({named}): {error}",
                folder=adapter.folder,
                named=named,
                error=error,
            )
        ) from error
    found = {}
    for name, module in wrapped.named_modules():
        if is_on_parameter(module):
            own = name.removeprefix("base_model.model.")
            transposed = bool(getattr(module.get_base_layer(), "is_transposed", False))
            found[own] = Packed(f"{own.replace('.base_layer', '')}.{module.parameter_name}", transposed)
    return found
