"""Whether the files that a config names are there.

model.llm, tokenizers    a model folder with all it needs, or a name on the hub (not looked for)
load_dataset             files, patterns and folders
load_from, peft_model    a checkpoint, an adapter
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtuner.checkpoint_paths import check_exists
from xtuner.config.load import name_of
from xtuner.config.ref import as_ref
from xtuner.config.schema import Fault
from xtuner.errors import ConfigError, ModelError, NotFoundError
from xtuner.loadable import check_language_model, check_training
from xtuner.model_folder import check_model_folder, looks_local
from xtuner.paths import beside, near_it

_SUFFIXES = (".json", ".jsonl", ".csv", ".xlsx", ".parquet", ".arrow", ".txt")
_FORMATS = ("json", "csv", "xlsx", "parquet", "arrow", "text")


def file_faults(config: Mapping[str, Any]) -> list[Fault]:
    """What is not where the config says."""
    return [*_empty_paths(config), *_model_faults(config), *_data_faults(config), *_checkpoint_faults(config)]


def hub_names(config: Mapping[str, Any]) -> list[str]:
    """The models and data sets that a config names and that are no paths."""
    models = [f.name for f in named_folders(config) if not (looks_local(f.name) or Path(f.name).exists())]
    data = [cfg["path"] for _, cfg in _loads(config) if _is_hub_name(cfg.get("path"), cfg.get("data_files"))]
    return sorted({*models, *data})


def folders_nearby(config: Mapping[str, Any]) -> list[Fault]:
    """Warnings about names taken for ones on the hub where a folder here is called nearly the same."""
    found: dict[str, Fault] = {}
    for path, name in ((folder.path, folder.name) for folder in named_folders(config)):
        if not name or looks_local(name) or Path(name).exists():
            continue
        if hint := beside(name, getattr(config, "filename", None)) or near_it(name, folders=True):
            message = f"{name} is not here, so it is taken for a name on the hub{hint}"
            found.setdefault(name, Fault(path, f"{path}: {message}"))
    return list(found.values())


def data_bytes(config: Mapping[str, Any]) -> int | None:
    """Size of all data files; None where there are none here, or others besides."""
    loads = list(_loads(config))
    files = [file for _, cfg in loads for file in data_files(cfg)]
    if not files or any(_is_hub_name(cfg.get("path"), cfg.get("data_files")) for _, cfg in loads):
        return None
    return sum(os.path.getsize(f) for f in files if os.path.isfile(f))


@dataclass(frozen=True)
class Folder:
    """A folder or hub name in a config: where it stands, and what it is to hold."""

    path: str
    name: str
    holds: str  # "tokenizer", "llm" or "model"
    trusted: bool  # its own code may run


def named_folders(config: Mapping[str, Any]) -> Iterator[Folder]:
    """The models and tokenizers that `config` names."""
    for name in ("tokenizer", "train_dataloader", "model"):
        for path, value in walk(config.get(name), name):
            folder = value.get("pretrained_model_name_or_path")
            if isinstance(folder, str):
                at = f"{path}.pretrained_model_name_or_path"
                yield Folder(at, folder, _held(path, value), bool(value.get("trust_remote_code")))


def _held(path: str, value: Mapping[str, Any]) -> str:
    kind = value.get("type")
    ref = as_ref(kind)
    name = "" if kind is None else name_of(ref if ref is not None else kind)
    if not path.startswith("model") or path.rpartition(".")[2] == "tokenizer" or "Tokenizer" in name:
        return "tokenizer"
    # What a function of the user's own makes of a folder is not known here.
    return "llm" if path == "model.llm" and name.startswith("transformers.") else "model"


def check_folder(folder: Folder, config: Mapping[str, Any], *, ask_hub: bool = True) -> None:
    """NotFoundError, ModelError or ConfigError where `folder` does not hold what `config` wants of it."""
    if folder.holds != "llm":
        check_model_folder(folder.name, tokenizer=folder.holds == "tokenizer", ask_hub=ask_hub)
        return
    sizes = check_language_model(folder.name, trust_remote_code=folder.trusted, ask_hub=ask_hub)
    model = config["model"]
    if sizes is not None:
        full = not model.get("lora") and not model.get("peft_model")
        check_training(sizes, folder.name, full=full, asked=bool(model["llm"].get("quantization_config")))


def _empty_paths(config: Mapping[str, Any]) -> list[Fault]:
    """Faults of paths that are empty texts: one for each setting, however often it is used."""
    at = [f"{path}.path" for path, cfg in _loads(config) if not cfg["path"]]
    at += [folder.path for folder in named_folders(config) if not folder.name]
    return [Fault(path, f"{path} is empty: name a file or folder") for path in at]


def _model_faults(config: Mapping[str, Any]) -> list[Fault]:
    found: dict[str, Fault] = {}
    for folder in named_folders(config):
        if not folder.name:
            continue
        try:
            check_folder(folder, config, ask_hub=False)
        except (NotFoundError, ModelError, ConfigError) as error:
            hint = beside(folder.name, getattr(config, "filename", None))
            message = f"{folder.path}: {error}{hint}"
            # One folder is named by the tokenizer and the model.
            found.setdefault(str(error), Fault(folder.path, message))
    return list(found.values())


def walk(value: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every dict in `value` with its path; what is named twice comes once."""
    seen: set[int] = set()
    stack = [(path, value)]
    while stack:
        here, inner = stack.pop()
        if isinstance(inner, Mapping) and id(inner) not in seen:
            seen.add(id(inner))
            yield here, inner
            stack += [(f"{here}.{key}", item) for key, item in inner.items()]
        elif isinstance(inner, (list, tuple)):
            stack += [(f"{here}.{number}", item) for number, item in enumerate(inner)]


def called(value: Mapping[str, Any]) -> str:
    """The last word of the type of a dict, `""` where it has none."""
    kind = value.get("type")
    ref = as_ref(kind)
    return "" if kind is None else name_of(ref if ref is not None else kind).rpartition(".")[2]


def _loads(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for path, value in walk(config.get(name), name):
            if called(value) == "load_dataset" and isinstance(value.get("path"), str):
                yield path, value


def _is_hub_name(path: Any, data_files: Any) -> bool:
    if not isinstance(path, str) or data_files is not None or path in _FORMATS:
        return False
    return not os.path.exists(path) and not _looks_like_file(path)


def _looks_like_file(path: str) -> bool:
    return path.startswith((".", "/", "~")) or path.endswith(_SUFFIXES) or path.count("/") > 1


def data_files(cfg: Mapping[str, Any]) -> list[str]:
    """The files that a call of load_dataset names, patterns filled in; [] for a name on the hub."""
    path, given = cfg["path"], cfg.get("data_files")
    if given is None:
        return [path] if _looks_like_file(path) or os.path.isfile(path) else []
    if path not in _FORMATS:
        return []
    groups = list(given.values()) if isinstance(given, Mapping) else [given]
    files = [f for g in groups for f in (g if isinstance(g, (list, tuple)) else [g]) if isinstance(f, str)]
    return [match for f in files if "://" not in f for match in (sorted(glob.glob(f, recursive=True)) or [f])]


def check_data_path(path: str) -> None:
    """NotFoundError where `path` is certainly a file and not there."""
    for file in data_files({"path": path}):
        if not os.path.exists(file):
            raise NotFoundError(
                f"there is no data file {file} (looked for {Path(file).resolve()}){near_it(file)}"
            )


def _data_faults(config: Mapping[str, Any]) -> list[Fault]:
    file_of_config = getattr(config, "filename", None)
    found = []
    for path, cfg in _loads(config):
        for file in data_files(cfg):
            if not os.path.exists(file):
                hint = beside(file, file_of_config) or near_it(file) or ". Name your own file here"
                looked = f"(looked for {Path(file).resolve()})"
                found.append(Fault(path, f"{path}: there is no data file {file} {looked}{hint}"))
    return found


def _checkpoint_faults(config: Mapping[str, Any]) -> list[Fault]:
    found = []
    load_from, file_of_config = config.get("load_from"), getattr(config, "filename", None)
    if isinstance(load_from, str):
        try:
            check_exists(load_from)
        except NotFoundError as error:
            hint = beside(load_from, file_of_config)
            message = f"load_from: {error}; correct the path, or set load_from = None{hint}"
            found.append(Fault("load_from", message))
    model = config.get("model")
    adapter = model.get("peft_model") if isinstance(model, Mapping) else None
    if isinstance(adapter, str) and not os.path.exists(adapter):
        hint = beside(adapter, file_of_config) or near_it(adapter)
        message = f"model.peft_model = {adapter!r}: there is no such file or folder{hint}"
        found.append(Fault("model.peft_model", message))
    return found
