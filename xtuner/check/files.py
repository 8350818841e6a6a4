"""Check that the files named in a config exist.

model.llm, tokenizers    a model folder with all files, or a name on the hub (not checked)
load_dataset             files, patterns and folders; URLs are not checked
LLaVADataset             the file of conversations, the folder of images
load_from, peft_model    a checkpoint, an adapter
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xtuner.checkpoint_paths import check_exists
from xtuner.config.folders import called, check_folder, named_folders, walk
from xtuner.config.schema import Fault, data_parts
from xtuner.data_files import check_there, named_files
from xtuner.errors import ConfigError, DataError, ModelError, NotFoundError
from xtuner.language import translate
from xtuner.model_folder import looks_local
from xtuner.paths import beside, near_it

_WITH_IMAGES = ("LLaVADataset", "RefCOCOJsonDataset", "InvRefCOCOJsonDataset", "InternVL_V1_5_Dataset")
_IN_ARCHIVE = re.compile(r"(?i)\.(zip|tar)([/\\]|$)")


def file_faults(config: Mapping[str, Any]) -> list[Fault]:
    """Faults of missing files."""
    faults = [*_empty_paths(config), *_model_faults(config), *_data_faults(config)]
    return [*faults, *_image_faults(config), *_checkpoint_faults(config)]


def hub_names(config: Mapping[str, Any]) -> list[str]:
    """The models and data sets of a config that are not paths."""
    models = [f.name for f in named_folders(config) if not (looks_local(f.name) or Path(f.name).exists())]
    data = [cfg["path"] for _, cfg in data_calls(config) if _is_hub_name(cfg)]
    return sorted({*models, *data})


def folders_nearby(config: Mapping[str, Any]) -> list[Fault]:
    """Warnings about hub names that are similar to the name of a local folder."""
    found: dict[str, Fault] = {}
    for path, name in ((folder.path, folder.name) for folder in named_folders(config)):
        if not name or looks_local(name) or Path(name).exists():
            continue
        if hint := beside(name, getattr(config, "filename", None)) or near_it(name, folders=True):
            message = translate(
                "{name} is not here, so it is taken for a name on the hub{hint}", name=name, hint=hint
            )
            found.setdefault(name, Fault(path, f"{path}: {message}"))
    return list(found.values())


def data_bytes(config: Mapping[str, Any]) -> int | None:
    """Size of all data files in bytes; None if there are none, or also remote data."""
    loads = list(data_calls(config))
    named = [data_files(cfg) for _, cfg in loads]
    files = [file for one in named for file in one or ()]
    if not files or None in named or not all(map(os.path.isfile, files)):
        return None
    return sum(map(os.path.getsize, files))


def _empty_paths(config: Mapping[str, Any]) -> list[Fault]:
    """Faults of paths that are empty texts: one for each setting, however often it is used."""
    at = [f"{path}.path" for path, cfg in data_calls(config) if not cfg["path"]]
    at += [folder.path for folder in named_folders(config) if not folder.name]
    return [Fault(path, translate("{path} is empty: name a file or folder", path=path)) for path in at]


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
            # The tokenizer and the model name the same folder.
            found.setdefault(str(error), Fault(folder.path, message))
    return list(found.values())


def data_calls(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Config path and arguments of each call that reads data, of training first."""
    for name in data_parts(config):
        for path, value in walk(config.get(name), name):
            if called(value) == "load_dataset" and isinstance(value.get("path"), str):
                yield path, value
            for setting in ("data_path", "data_paths") if called(value) in _WITH_IMAGES else ():
                for file in _texts(value.get(setting)):
                    yield path, {"path": file, "data_files": None}


def _is_hub_name(cfg: Mapping[str, Any]) -> bool:
    is_hub = cfg.get("data_files") is None and not os.path.exists(cfg["path"])
    return is_hub and data_files(cfg) is None


def data_files(cfg: Mapping[str, Any]) -> list[str] | None:
    """The files of a call of load_dataset; None for a name on the hub, or for a faulty one."""
    try:
        return named_files(cfg["path"], cfg.get("data_files"))
    except DataError:
        return []


def check_data_path(path: str) -> None:
    """NotFoundError if `path` is certainly a file and does not exist."""
    for file in named_files(path, None) or ():
        check_there(file)


def _data_faults(config: Mapping[str, Any]) -> list[Fault]:
    found = []
    for path, cfg in data_calls(config):
        try:
            for file in named_files(cfg["path"], cfg.get("data_files")) or ():
                check_there(file)
        except NotFoundError as error:
            hint = beside(file, getattr(config, "filename", None))
            cure = hint or ("" if near_it(file) else translate(". Name your own file here"))
            found.append(Fault(path, f"{path}: {error}{cure}"))
        except DataError as error:
            found.append(Fault(path, f"{path}: {error}"))
    return found


def _image_faults(config: Mapping[str, Any]) -> list[Fault]:
    """Faults of folders or archives of images that are not there: one for each."""
    found: dict[str, Fault] = {}
    for name in data_parts(config):
        for path, value in walk(config.get(name), name):
            for setting in ("image_folder", "image_folders") if called(value) in _WITH_IMAGES else ():
                at = f"{path}.{setting}"
                for folder in _texts(value.get(setting)):
                    if os.path.exists(os.path.expanduser(folder)) or _IN_ARCHIVE.search(folder):
                        continue
                    hint = beside(folder, getattr(config, "filename", None)) or near_it(folder, folders=True)
                    what = "there is no folder or archive of images {path}"
                    found.setdefault(folder, Fault(at, f"{at}: {translate(what, path=folder)}{hint}"))
    return list(found.values())


def _texts(value: Any) -> list[str]:
    """The texts of a setting that is one or a list of them."""
    return [one for one in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(one, str)]


def _checkpoint_faults(config: Mapping[str, Any]) -> list[Fault]:
    found = []
    load_from, file_of_config = config.get("load_from"), getattr(config, "filename", None)
    if isinstance(load_from, str):
        try:
            check_exists(load_from)
        except NotFoundError as error:
            hint = beside(load_from, file_of_config)
            message = translate(
                "load_from: {error}; correct the path, or set load_from = None{hint}", error=error, hint=hint
            )
            found.append(Fault("load_from", message))
    model = config.get("model")
    earlier = model.get("pretrained_pth") if isinstance(model, Mapping) else None
    if isinstance(earlier, str):
        try:
            check_exists(earlier)
        except NotFoundError as error:
            what = "model.pretrained_pth: {error}; name the checkpoint of the stage before{hint}"
            hint = beside(earlier, file_of_config)
            found.append(Fault("model.pretrained_pth", translate(what, error=error, hint=hint)))
    adapter = model.get("peft_model") if isinstance(model, Mapping) else None
    if isinstance(adapter, str) and not os.path.exists(adapter):
        hint = beside(adapter, file_of_config) or near_it(adapter)
        message = translate(
            "model.peft_model = {adapter!r}: there is no such file or folder{hint}",
            adapter=adapter,
            hint=hint,
        )
        found.append(Fault("model.peft_model", message))
    return found
