"""What is known of a path without opening it: whether it exists, and which similar path may be meant."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from xtuner.errors import ModelError, NotFoundError
from xtuner.language import translate


def is_address(model: str | Path) -> bool:
    """Whether a model is at an address of a server: http://host:8000/v1."""
    return str(model).startswith(("http://", "https://"))


def near_it(path: str | Path, *, folders: bool = False) -> str:
    """`"; near it: a.json, b.json"` with similar names in the same folder, `""` if there are none."""
    folder = Path(path).expanduser().resolve().parent
    try:
        names = [e.name for e in os.scandir(folder) if e.is_dir() or not folders]
    except OSError:
        return ""
    near = difflib.get_close_matches(Path(path).name, names, n=3, cutoff=0.6)
    return translate("; near it: {names}", names=", ".join(near)) if near else ""


def beside(path: str | Path, config_file: str | None) -> str:
    """The end of a sentence if a relative path exists from the config's folder only, else `""`."""
    if config_file is None or Path(path).is_absolute() or Path(path).exists():
        return ""
    there = Path(config_file).parent / path
    if not there.exists():
        return ""
    return translate(
        "; {there} is there, but paths count from where the command runs: write that, or the whole path",
        there=there,
    )


def name_and_place(text: str) -> tuple[str, str]:
    """`NAME=PLACE` as two; the name is "" where there is none, such as in `s3://bucket/x=1`."""
    name, equals, place = text.partition("=")
    return (name, place) if equals and "://" not in name else ("", text)


def check_adapter_path(path: str | Path) -> None:
    """Raise NotFoundError or ModelError if `path` is not an adapter folder."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise NotFoundError(
            translate("There is no adapter folder {path}{near}", path=path, near=near_it(path, folders=True))
        )
    if not (folder / "adapter_config.json").is_file():
        of_run = any(folder.glob("*.pth"))
        hint = ", but checkpoints of a run: make one of them with xtuner convert pth_to_hf"
        cure = translate(hint) if of_run else ""
        raise ModelError(
            translate("{path} is no adapter: it has no adapter_config.json{cure}", path=path, cure=cure)
        )
