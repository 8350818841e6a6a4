"""The folder a conversion writes: complete or absent.

out/../.out.partial   everything is written here first
out/                  takes its place when all is well; on any failure `.out.partial` is removed
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xtuner.errors import CheckpointError, ConfigError
from xtuner.language import told
from xtuner.locks import writing
from xtuner.log import logger

# Names a model or adapter folder is made of; a folder with other things in it is somebody else's.
_SUFFIXES = {".safetensors", ".bin", ".json", ".model", ".py", ".md", ".txt", ".jinja", ".tiktoken"}
_MARKS = ("config.json", "adapter_config.json")


@contextmanager
def new_folder(target: str | Path, *, sources: tuple[Path, ...] = (), num_bytes: int = 0) -> Iterator[Path]:
    """An empty folder beside `target` that becomes `target` when the block ends without an error.

    `sources` are the folders being read; `num_bytes` is about what will be written. Raises
    ConfigError where `target` holds anything but an earlier model, CheckpointError on a full disk.
    """
    path = Path(os.path.abspath(os.path.expanduser(target)))
    with writing(path, told("the output")):
        yield from _new_folder(path, sources, num_bytes)


def _new_folder(path: Path, sources: tuple[Path, ...], num_bytes: int) -> Iterator[Path]:
    old = _replaceable(path, sources)
    partial = path.with_name(f".{path.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        free = shutil.disk_usage(partial).free
        if num_bytes > free:
            raise OSError(errno.ENOSPC, f"{num_bytes:,} bytes needed, {free:,} free")
        yield partial
        _take_place(partial, path, old)
    except (OSError, RuntimeError) as e:
        # torch.save reports a failed write as a RuntimeError of its own.
        if getattr(e, "errno", None) in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EFBIG,
        ) or "PytorchStreamWriter" in str(e):
            message = f"{path}: the disk is full ({e}). Nothing new was left there; free some space."
            raise CheckpointError(message) from e
        if isinstance(e, PermissionError) or not partial.is_dir():
            raise CheckpointError(f"{path} cannot be written: {getattr(e, 'strerror', None) or e}") from e
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replaceable(path: Path, sources: tuple[Path, ...]) -> list[Path]:
    """The files of an earlier conversion at `path`, hidden ones left alone; an error where there is more."""
    for source in sources:
        if path == source.resolve():
            raise ConfigError(
                f"{path} is read by this command and cannot be its output: name another folder."
            )
    if not path.exists():
        return []
    if not path.is_dir():
        raise ConfigError(f"{path} is a file: name a folder to write to.")
    old = sorted(p for p in path.iterdir() if p.is_dir() or not p.name.startswith("."))
    foreign = [p.name for p in old if p.is_dir() or p.suffix not in _SUFFIXES]
    if old and not any((path / mark).is_file() for mark in _MARKS):
        foreign = foreign or [p.name for p in old]
    if foreign:
        raise ConfigError(
            f"{path} holds {_some(foreign)}, which no conversion wrote: name a new or an empty folder."
        )
    return old


def _take_place(partial: Path, path: Path, old: list[Path]) -> None:
    if not path.exists():
        partial.rename(path)
        return
    if old:
        logger.warning("%s existed: %s replaced", path, _some([p.name for p in old]))
    for file in old:
        file.unlink()
    for file in sorted(partial.iterdir()):
        shutil.move(str(file), str(path / file.name))


def _some(names: list[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
