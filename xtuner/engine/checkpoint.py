"""Checkpoints on disk: complete or absent.

    iter_300.pth      written beside as .iter_300.pth.part, synced, renamed
    last_checkpoint   then its path, written the same way
    iter_100.pth      then the oldest beyond `max_keep_ckpts` is removed

A file is a zip archive of tensors with a checksum each, so a cut or altered one is recognised. It holds plain
containers only and loads without running anything from it.
"""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from xtuner.errors import CheckpointError, NotFoundError
from xtuner.log import logger

LAST = "last_checkpoint"


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write `state` to `path`; on any failure the file that was there stays as it was."""
    try:
        with _written_beside(path) as part, open(part, "wb") as file:
            torch.save(state, file)
            _sync(file)
        with _written_beside(path.parent / LAST) as part, open(part, "w", encoding="utf-8") as file:
            file.write(str(path.resolve()))
            _sync(file)
    # torch turns a failed write into a RuntimeError of its archive writer.
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__ or error
        before = find_last(path.parent)
        kept = (
            f"{before} is untouched: free some space and go on with --resume"
            if before
            else "there is no earlier one"
        )
        raise CheckpointError(f"cannot write {path}: {cause}; {kept}") from error


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def _written_beside(path: Path) -> Iterator[Path]:
    """A path to write to, renamed to `path` at the end, removed on failure."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        os.replace(part, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def load_checkpoint(path: str | Path, check: bool = False) -> dict[str, Any]:
    """The content of a checkpoint, its tensors mapped from the file; `check` compares all checksums first."""
    path = Path(path)
    if not path.exists():
        near = find_last(path.parent) if path.parent.is_dir() else None
        raise NotFoundError(
            f"there is no checkpoint {str(path)!r}" + (f"; the newest there is {near}" if near else "")
        )
    if path.is_dir():
        inside = find_last(path)
        cure = (
            f"name a file in it, such as {inside}" if inside else "DeepSpeed's are not read by this version"
        )
        raise CheckpointError(f"{path} is a folder, not a checkpoint; {cure}")
    if fault := find_fault(path) if check else _find_open_fault(path):
        raise CheckpointError(f"{path} is damaged: {fault}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    if not (isinstance(found, dict) and "state_dict" in found):
        raise CheckpointError(f"{path} holds no checkpoint: it has no 'state_dict'")
    return found


def _find_open_fault(path: Path) -> str | None:
    return None if zipfile.is_zipfile(path) else "it is cut off, or no checkpoint at all"


def find_fault(path: Path) -> str | None:
    """What is wrong with the file, or None when all of it reads and its checksums agree."""
    if fault := _find_open_fault(path):
        return fault
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        return str(error)
    return f"the checksum of {bad} is wrong" if bad else None


def find_last(work_dir: Path) -> Path | None:
    """The newest checkpoint of a work dir by its `last_checkpoint`, else by time, or None."""
    found = _by_age(work_dir)
    return found[0] if found else None


def find_whole(work_dir: Path) -> Path:
    """The newest checkpoint that reads whole; damaged ones are named and passed over."""
    candidates = _by_age(work_dir)
    if not candidates:
        raise NotFoundError(
            f"there is no checkpoint in {str(work_dir)!r} to resume from; train without --resume"
        )
    for path in candidates:
        fault = find_fault(path)
        if fault is None:
            return path
        logger.warning("%s is damaged: %s; trying the one before it", path, fault)
    raise CheckpointError(f"none of the {len(candidates)} checkpoints in {work_dir} reads whole")


def _by_age(work_dir: Path) -> list[Path]:
    """Checkpoints of a work dir, newest first."""
    files = [p for pattern in ("iter_*.pth", "epoch_*.pth") for p in work_dir.glob(pattern) if p.is_file()]
    files.sort(key=lambda p: p.stat().st_mtime_ns, reverse=True)
    with contextlib.suppress(OSError):
        named = work_dir / Path((work_dir / LAST).read_text(encoding="utf-8").strip()).name
        if named in files:
            # A copied folder loses its times; what the file names is the newest.
            files = [named, *(p for p in files if p != named)]
    return files
