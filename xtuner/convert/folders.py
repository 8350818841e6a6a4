"""Model folders as inputs: found on disk or downloaded from the hub; weights and other files."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from xtuner.errors import ModelError, NotFoundError
from xtuner.language import translate
from xtuner.model_folder import read_json

_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx", ".ot"}


def model_folder(name: str | Path, what: str) -> Path:
    """The folder `name`, or the local copy of that repository of the hub; `what` names it in errors."""
    what = translate(what)
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.exists() or str(name).startswith((".", "/", "~")) or str(name).count("/") != 1:
        raise NotFoundError(translate("{what} {name!r} is not a folder.", what=what, name=str(name)))
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name))).resolve()
    except Exception as e:
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise NotFoundError(
            translate(
                "{what} {name!r} is neither a folder nor to be had from the hub: {reason}",
                what=what,
                name=name,
                reason=reason,
            )
        ) from e


def merged_folder(name: str | Path, what: str) -> Path:
    """`model_folder` of a whole model; ModelError, with the command that merges it, for an adapter."""
    folder = model_folder(name, what)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path") or "BASE"
        command = shlex.join(["xtuner", "convert", "merge", str(base), str(name), "OUT"])
        raise ModelError(
            translate("{folder} is an adapter: merge it first, with {command}", folder=name, command=command)
        )
    return folder


def copy_other_files(source: Path, target: Path, *, leave: tuple[str, ...] = ()) -> list[str]:
    """Copy all files but weights (configs, tokenizer, the model's code); returns their names."""
    copied = []
    for file in sorted(source.iterdir()):
        is_weights = file.suffix in _WEIGHTS or file.name.endswith(".index.json")
        if file.is_file() and not is_weights and not file.name.startswith(".") and file.name not in leave:
            shutil.copyfile(file, target / file.name)
            copied.append(file.name)
    return copied
