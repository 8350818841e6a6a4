"""The data sets of a config, each with its rows and settings.

    train_dataloader.dataset
      dict(type=ConcatDataset, datasets=[            parts   train_dataloader.dataset.datasets.0   (A's rows)
          dict(type=process_hf_dataset, dataset=A),          train_dataloader.dataset.datasets.1   (B's rows)
          dict(type=process_hf_dataset, dataset=B)])

They are built as in training: the same dicts, by the same builder, with the same defaults.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from xtuner.config import Builder, Config
from xtuner.config.build import callee_of
from xtuner.config.load import name_of
from xtuner.config.schema import by_trainer
from xtuner.dataset.encoding.pipeline import Encoding
from xtuner.dataset.head_dataset import (
    build_classification_dataset,
    build_embedding_dataset,
    build_stepwise_dataset,
)
from xtuner.dataset.huggingface import find_map_fn, process_hf_dataset
from xtuner.dataset.internvl import InternVL_V1_5_Dataset
from xtuner.dataset.items.packed_dataset import PackedDataset
from xtuner.dataset.items.streamed import Stream
from xtuner.dataset.map_fns import DATASET_FORMAT_MAPPING
from xtuner.dataset.preference_dataset import build_preference_dataset, build_unpaired_dataset
from xtuner.dataset.reading.selection import Selection, take_some, take_split
from xtuner.dataset.vision_language import VisionLanguageDataset
from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.log import say_once

_OF_ANSWERS = (build_preference_dataset, build_unpaired_dataset)
_OF_HEADS = (build_classification_dataset, build_embedding_dataset, build_stepwise_dataset)


@dataclasses.dataclass(frozen=True)
class Origin:
    """The rows and settings of one data set.

    `settings` is None for tokenised rows, and `rows` is None too for a data set that reads files itself;
    `kind` is the name of its type.
    """

    path: str
    kind: str
    rows: Selection | None = None
    settings: Encoding | None = None
    max_length: int | None = None
    streaming: bool = False
    learns_answers: bool = True  # and so the mark that ends one; not where only a score is put at the end


class ConfiguredData:
    """The training data of a config: its parts in `origins`, built once and on request."""

    def __init__(self, cfg: Any, path: str, tokenizer_cfg: Any) -> None:
        self._cfg = cfg
        self._path = path
        self._tokenizer_cfg = tokenizer_cfg
        self._builder = builder = Builder()
        self._found = dict(_leaves(cfg, path, builder))
        self.origins = [_origin(found, builder, where) for where, found in self._found.items()]

    def build(self) -> Any:
        """All the data as training reads it; the first buffer of a stream."""
        return _without_streams(self._builder.build(self._cfg, self._path))

    def build_part(self, origin: Origin) -> PackedDataset:
        """One data set of it; ConfigError if its samples cannot be shown."""
        made = _without_streams(self._builder.build(self._found[origin.path], origin.path))
        if not isinstance(made, PackedDataset):
            raise ConfigError(
                translate(
                    "{path} is {kind}, which does not show its samples", path=origin.path, kind=origin.kind
                )
            )
        return made

    def tokenizer(self, origin: Origin) -> Any:
        """The tokenizer of that data set, else that of the config."""
        if origin.settings is not None:
            return origin.settings.tokenizer
        cfg = self._found[origin.path].get("tokenizer") or self._tokenizer_cfg
        if cfg is None:
            raise ConfigError(
                translate(
                    "{path} has no tokenizer to decode its tokens, nor has the config: add tokenizer = "
                    "dict(type=AutoTokenizer.from_pretrained, ...)",
                    path=origin.path,
                )
            )
        return self._builder.build(cfg, "tokenizer")


def open_configured(config: Config) -> ConfiguredData:
    """The data of `config.train_dataloader` with opened rows, not tokenised yet."""
    loader, path = config.get("train_dataloader"), "train_dataloader.dataset"
    if by_trainer(config):
        loader, path = {"dataset": config.get("train_dataset")}, "train_dataset"
    if not isinstance(loader, Mapping) or loader.get("dataset") is None:
        raise ConfigError(translate("the config has no {path}: there is no data in it to look at", path=path))
    data = ConfiguredData(loader["dataset"], path, config.get("tokenizer"))
    if not data.origins:
        raise ConfigError(
            translate("{path} is not a dict(type=...): there is no data in it to look at", path=path)
        )
    return data


def _without_streams(made: Any) -> Any:
    if not isinstance(made, Stream):
        return made
    say_once("the data is streamed: only its first rows are shown, as many as buffer_size says")
    return made.first_buffer()


def _leaves(value: Any, path: str, builder: Builder) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Path and config of every data set in `value` that does not contain others."""
    if isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{path}.{number}", builder)
    elif isinstance(value, Mapping) and (callee := callee_of(dict(value), path)) is not None:
        if callee is InternVL_V1_5_Dataset:
            yield from _files(value, path, builder)
            return
        inside = list(_leaves(value.get("datasets"), f"{path}.datasets", builder))
        yield from inside or list(_calls(value, path)) or [(path, value)]


def _files(value: Mapping[str, Any], path: str, builder: Builder) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Path and config of the data set of each file of an InternVL_V1_5_Dataset."""
    arguments = _arguments(InternVL_V1_5_Dataset, value, builder, path)
    for number, part in enumerate(InternVL_V1_5_Dataset.parts(**arguments)):
        yield f"{path}.data_paths.{number}", {"type": VisionLanguageDataset, **part}


def _calls(value: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Path and config of every call of `process_hf_dataset` in `value`."""
    if isinstance(value, Mapping):
        if callee_of(dict(value), path) is process_hf_dataset:
            yield path, value
            return
        for key, inner in value.items():
            yield from _calls(inner, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from _calls(inner, f"{path}.{number}")


def _origin(cfg: Mapping[str, Any], builder: Builder, path: str) -> Origin:
    kind, callee = name_of(cfg["type"]), callee_of(dict(cfg), path)
    if callee in (*_OF_ANSWERS, *_OF_HEADS):
        arguments = _arguments(callee, cfg, builder, path)
        rows = take_split(arguments["dataset"], "train")
        scored = callee in _OF_HEADS or bool(arguments.get("is_reward"))
        return Origin(path, kind, rows, None, arguments["max_length"], learns_answers=not scored)
    if callee is not process_hf_dataset:
        return Origin(path, kind)
    arguments = _arguments(process_hf_dataset, cfg, builder, path)
    rows = take_some(
        take_split(arguments["dataset"], arguments["split"]),
        arguments["max_dataset_length"],
        arguments["seed"],
    )
    settings = _settings(arguments) if arguments["do_dataset_tokenization"] else None
    return Origin(path, kind, rows, settings, arguments["max_length"], bool(arguments["streaming"]))


def _arguments(callee: Any, cfg: Mapping[str, Any], builder: Builder, path: str) -> dict[str, Any]:
    """What `callee` is called with, defaults included."""
    given = {name: builder.build(value, f"{path}.{name}") for name, value in cfg.items() if name != "type"}
    try:
        bound = inspect.signature(callee).bind(**given)
    except TypeError:
        # Building the data set itself says best which argument is wrong.
        builder.build(cfg, path)
        raise
    bound.apply_defaults()
    return bound.arguments


def _settings(arguments: Mapping[str, Any]) -> Encoding:
    if arguments["tokenizer"] is None:
        raise ConfigError(
            translate("process_hf_dataset needs a tokenizer, unless do_dataset_tokenization = False")
        )
    names = [field.name for field in dataclasses.fields(Encoding)]
    found = {name: arguments[name] for name in names if name in arguments}
    found["dataset_map_fn"] = find_map_fn(found["dataset_map_fn"], "dataset_map_fn", DATASET_FORMAT_MAPPING)
    found["template_map_fn"] = find_map_fn(found["template_map_fn"], "template_map_fn", {})
    return Encoding(**{**found, "rename_maps": dict(found["rename_maps"])})
