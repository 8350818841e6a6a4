"""Models at addresses: a folder of a bucket is copied to this machine once, complete or absent.

s3://bucket/qwen3        ->  $XTUNER_CACHE/models/<key>/qwen3       also gs://, oss://, az://, ... (fsspec)
hf://Qwen/Qwen3-8B       ->  Qwen/Qwen3-8B                          the hub's client keeps its own copies;
                             of an adapter the folder of its copy
Qwen/Qwen3-8B            ->  the folder of ModelScope's client      with XTUNER_USE_MODELSCOPE=1
./qwen3                  ->  ./qwen3
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtuner import hub
from xtuner.atomic import written
from xtuner.cache import cache_folder
from xtuner.credentials import without_credentials
from xtuner.data_files import WEB, check_protocol, is_elsewhere
from xtuner.errors import ModelError, NotFoundError
from xtuner.extras import install_extra
from xtuner.language import translate
from xtuner.locks import locked
from xtuner.log import logger, say_once, start_console
from xtuner.model_folder import looks_local

_ADAPTER_KEY = "peft_model"
MODEL_KEYS = ("pretrained_model_name_or_path", "model_path", _ADAPTER_KEY)
"""The keys of a config under which models and adapters are named."""

_HUB = "hf://"
# What protocols call the version of a file.
_VERSIONS = ("ETag", "etag", "md5Hash", "mtime", "created")


def local_model(name: str) -> str:
    """The folder of a model on this machine, or its name on the hub."""
    if name.startswith(_HUB):
        return name.removeprefix(_HUB).removeprefix("models/").strip("/")
    if is_elsewhere(name) and not name.lower().startswith(WEB):
        return str(_copy_of(name.rstrip("/")))
    if _uses_modelscope() and name.count("/") == 1 and not looks_local(name) and not Path(name).exists():
        return _from_modelscope(name)
    return name


def local_adapter(name: str) -> str:
    """The folder of an adapter on this machine; one at hf:// is downloaded by the hub's client."""
    found = local_model(name)
    if not name.startswith(_HUB):
        return found
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(found, local_files_only=not hub.is_reachable())
    except Exception as error:  # the hub's client raises many
        raise NotFoundError(_not_fetched(name, error)) from error


def use_local_models(config: Any) -> None:
    """Put folders of this machine in the place of addresses, everywhere in a config."""
    seen: set[int] = set()
    stack = [config]
    while stack:
        here = stack.pop()
        if id(here) in seen:
            continue
        seen.add(id(here))
        if isinstance(here, Mapping):
            for key, value in here.items():
                if key in MODEL_KEYS and isinstance(value, str):
                    local = local_adapter if key == _ADAPTER_KEY else local_model
                    here[key] = local(value)  # type: ignore[index]
            stack += here.values()
        elif isinstance(here, (list, tuple)):
            stack += here


def _uses_modelscope() -> bool:
    return os.environ.get("XTUNER_USE_MODELSCOPE", "").lower() in ("1", "true", "yes", "on")


def _from_modelscope(name: str) -> str:
    try:
        from modelscope import snapshot_download
    except ImportError:
        command = install_extra("modelscope")
        what = "XTUNER_USE_MODELSCOPE needs the package modelscope: {command}"
        raise ModelError(translate(what, command=command)) from None
    return snapshot_download(name)


def _copy_of(address: str) -> Path:
    """A copy of the files below `address`, made again if their sizes or versions have changed."""
    import fsspec

    check_protocol(address)
    above, name = cache_folder() / "models", address.rpartition("/")[2]
    try:
        system, path = fsspec.core.url_to_fs(address)
        found = _files(system, path)
    except Exception as error:  # each protocol raises different errors
        earlier = sorted(above.glob(f"{_key(address)}-*/{name}"), key=os.path.getmtime)
        if not earlier or isinstance(error, (FileNotFoundError, PermissionError)):
            raise NotFoundError(_not_fetched(address, error)) from error
        what = "{address} cannot be reached: the copy of an earlier run is used ({reason})"
        say_once(what, address=address, reason=_reason(error))
        return earlier[-1]
    if not found:
        raise NotFoundError(_not_fetched(address, translate("there are no files")))
    folder = above / f"{_key(address)}-{_key(*found.items())}"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", lambda who: logger.info(translate("waiting for %s"), who)):
        if not (folder / name).is_dir():
            with written(folder / name) as part:
                _fetch(system, path, found, part, address)
    return folder / name


def _files(system: Any, path: str) -> dict[str, tuple[int, str]]:
    """Size and version of the files below `path`, without hidden ones, by their paths in it."""
    found = {}
    for full, info in sorted(system.find(path, detail=True).items()):
        name = full[len(path) :].strip("/")
        if name and not any(part.startswith(".") for part in name.split("/")):
            version = next((info[key] for key in _VERSIONS if key in info), "")
            found[name] = (int(info["size"]), str(version))
    return found


def _fetch(system: Any, path: str, found: Mapping[str, tuple[int, str]], folder: Path, address: str) -> None:
    total = sum(size for size, _ in found.values())
    folder.mkdir()
    free = shutil.disk_usage(folder).free
    if total > free:
        what = "{address} has {total:,} bytes, and {place} has space for {free:,}: set XTUNER_CACHE elsewhere"
        raise ModelError(translate(what, address=address, total=total, place=folder.parent, free=free))
    if not logger.handlers:  # configs are read before a command starts its log
        start_console()
    logger.info(translate("downloading %s: %d files, %s bytes"), address, len(found), f"{total:,}")
    for name, (size, _) in found.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            system.get_file(f"{path.rstrip('/')}/{name}", str(target))
        except Exception as error:  # each protocol raises different errors
            raise NotFoundError(_not_fetched(f"{address}/{name}", error)) from error
        if target.stat().st_size != size:
            what = "{address} has {got:,} bytes instead of {size:,}: the download was cut off"
            raise ModelError(
                translate(what, address=f"{address}/{name}", got=target.stat().st_size, size=size)
            )


def _not_fetched(address: str, error: Exception | str) -> str:
    return translate("{address} cannot be downloaded: {reason}", address=address, reason=_reason(error))


def _reason(error: Exception | str) -> str:
    return without_credentials((str(error).strip().splitlines() or [type(error).__name__])[0])


def _key(*parts: Any) -> str:
    return hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
