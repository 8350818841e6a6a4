"""The folder a conversion writes: complete or absent.

out/../.out.part   everything is written here first; .parts in it holds what the output is made of
out/               is replaced by it in one step when all is well; on any failure `.out.part` is removed
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xtuner import atomic
from xtuner.errors import CheckpointError, ConfigError
from xtuner.language import translate
from xtuner.locks import writing
from xtuner.log import logger

# Names a model or adapter folder is made of; a folder with other things in it is somebody else's.
_SUFFIXES = {".safetensors", ".bin", ".json", ".model", ".py", ".md", ".txt", ".jinja", ".tiktoken"}
# In a folder that cannot be replaced itself: the new files, and the old ones while some or all are moved.
_NEW, _MOVING, _OLD = ".xtuner-new", ".xtuner-moving", ".xtuner-old"
_PARTS = ".parts"
# Folders in them: the parts of a LLaVA, and chat templates beside the first.
_FOLDERS = {
    "llm_adapter",
    "visual_encoder_adapter",
    "visual_encoder",
    "projector",
    "additional_chat_templates",
}
_MARKS = ("config.json", "adapter_config.json", "projector/config.json")


@contextmanager
def new_folder(target: str | Path, *, sources: tuple[Path, ...] = (), num_bytes: int = 0) -> Iterator[Path]:
    """An empty folder beside `target` that becomes `target` when the block ends without an error.

    `sources` are the folders being read; `num_bytes` is about what will be written. Raises
    ConfigError where `target` holds anything but an earlier model, CheckpointError on a full disk.
    """
    path = Path(os.path.abspath(os.path.expanduser(target)))
    with writing(path, translate("the output")):
        yield from _new_folder(path, sources, num_bytes)


@contextmanager
def on_the_way(folder: Path) -> Iterator[Path]:
    """A folder within the new `folder` for what it is made of; whatever happens, it does not stay."""
    parts = folder / _PARTS
    parts.mkdir()
    yield parts
    shutil.rmtree(parts)


def _new_folder(path: Path, sources: tuple[Path, ...], num_bytes: int) -> Iterator[Path]:
    started = False
    try:
        stays = _must_stay(path)
        if stays:
            _restore_inside(path)
        atomic.restore(path)
        old = _replaceable(path, sources)
        with atomic.written(path / _NEW if stays else path) as part:
            part.mkdir()
            started = True
            free = shutil.disk_usage(part).free
            if num_bytes > free:
                what = "{need:,} bytes needed, {free:,} free"
                raise OSError(errno.ENOSPC, translate(what, need=num_bytes, free=free))
            yield part
            if old:
                logger.warning(translate("%s existed: %s replaced"), path, _some([p.name for p in old]))
            if not stays:
                _keep_hidden(path, part)
        if stays:
            _exchange_inside(path, old)
    except (OSError, RuntimeError) as e:
        # torch.save reports a failed write as a RuntimeError of its own.
        if getattr(e, "errno", None) in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EFBIG,
        ) or "PytorchStreamWriter" in str(e):
            what = "{path}: the disk is full ({error}). Nothing new was left there; free some space."
            raise CheckpointError(translate(what, path=path, error=e)) from e
        if isinstance(e, PermissionError) or not started:
            raise CheckpointError(
                translate(
                    "{path} cannot be written: {error}", path=path, error=getattr(e, "strerror", None) or e
                )
            ) from e
        raise


def _must_stay(path: Path) -> bool:
    """Whether the folder itself cannot be replaced: it is mounted, or this process is in it."""
    here = Path.cwd()
    return path.is_dir() and (os.path.ismount(path) or path.resolve() in (here, *here.parents))


def _keep_hidden(path: Path, part: Path) -> None:
    """Put the hidden files of the folder that is replaced, such as `.gitattributes`, into the new one too."""
    if not path.is_dir():
        return
    shutil.copymode(path, part)
    for file in path.glob(".*"):
        try:
            os.link(file, part / file.name, follow_symlinks=False)
        except OSError:  # a file system without links
            shutil.copy2(file, part / file.name, follow_symlinks=False)


def _exchange_inside(path: Path, old: list[Path]) -> None:
    """Replace files of `path` by those of the folder of new ones in it; the old ones are removed last."""
    (path / _MOVING).mkdir()
    for file in old:
        file.rename(path / _MOVING / file.name)
    (path / _MOVING).rename(path / _OLD)
    for file in sorted((path / _NEW).iterdir()):
        file.rename(path / file.name)
    (path / _NEW).rmdir()
    atomic.sync_folder(path)
    atomic.remove(path / _OLD)


def _restore_inside(path: Path) -> None:
    """Undo an exchange that was killed; one whose new files are all there is finished."""
    if (path / _OLD).is_dir() and (path / _NEW).is_dir():
        for file in path.iterdir():
            if not file.name.startswith("."):
                atomic.remove(file)
        (path / _OLD).rename(path / _MOVING)
    if (path / _MOVING).is_dir():
        for file in (path / _MOVING).iterdir():
            file.rename(path / file.name)
    for left in (path / _MOVING, path / _OLD, path / _NEW, atomic.part_of(path / _NEW)):
        atomic.remove(left)


def _replaceable(path: Path, sources: tuple[Path, ...]) -> list[Path]:
    """The files of an earlier conversion at `path`, hidden ones left alone; an error where there is more."""
    for source in sources:
        if path == source.resolve():
            raise ConfigError(
                translate(
                    "{path} is read by this command and cannot be its output: name another folder.", path=path
                )
            )
    if not path.exists():
        return []
    if not path.is_dir():
        raise ConfigError(translate("{path} is a file: name a folder to write to.", path=path))
    old = sorted(p for p in path.iterdir() if p.is_dir() or not p.name.startswith("."))
    foreign = [p.name for p in old if not _is_written(p)]
    if old and not any((path / mark).is_file() for mark in _MARKS):
        foreign = foreign or [p.name for p in old]
    if foreign:
        raise ConfigError(
            translate(
                "{path} holds {names}, which no conversion wrote: name a new or an empty folder.",
                path=path,
                names=_some(foreign),
            )
        )
    return old


def _is_written(path: Path) -> bool:
    """Whether a file or folder is of a kind that conversions write."""
    if not path.is_dir():
        return path.suffix in _SUFFIXES
    return path.name in _FOLDERS and all(p.is_file() and p.suffix in _SUFFIXES for p in path.iterdir())


def _some(names: list[str], limit: int = 6) -> str:
    left = len(names) - limit
    more = translate(" and {count} others", count=left) if left > 0 else ""
    return ", ".join(names[:limit]) + more
