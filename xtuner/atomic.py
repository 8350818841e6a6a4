"""Files and folders that are complete or absent: written beside their name, synced, then renamed.

    .out.part   the new one, while it is written; removed on failure
    out         the old one until the new one is complete, then the new one
    .out.old    the old one, between two renames, where the system cannot exchange two folders in one step

A process that is killed leaves the old one or the new one. Where it left neither name `out`, between the two
renames, `restore` gives the old one back; whoever writes `out` again does that first.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextlib.contextmanager
def written(path: Path, *, shared: bool = False, synced: bool = True) -> Iterator[Path]:
    """A path to write a file or folder to, which becomes `path` when the block ends without an error.

    With `shared`, several processes may write `path` at the same time, each under a name of its own; the last
    one stays. Without `synced`, for a file that is checked when it is read, a power failure may damage it.
    """
    path = path.resolve() if path.is_dir() else path
    restore(path)
    part = _own_part(path) if shared else part_of(path)
    remove(part)
    try:
        yield part
        if synced:
            sync(part)
            put_in_place(part, path)
        else:
            os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            remove(part)
        raise


def part_of(path: Path) -> Path:
    """The name under which `path` is written."""
    return path.with_name(f".{path.name}.part")


def _own_part(path: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    folder.rmdir()
    return folder


def put_in_place(part: Path, path: Path) -> None:
    """Give `part` the name `path`, in place of what has it."""
    is_folder = path.is_dir() or (part.is_dir() and path.exists())
    if is_folder and not path.is_symlink():
        old = part if _exchange(part, path) else _old_of(path)
        if old != part:
            os.rename(path, old)
            os.rename(part, path)
        sync_folder(path.parent)
        remove(old)
    else:
        os.replace(part, path)
        sync_folder(path.parent)


def restore(path: Path) -> None:
    """Undo or finish a replacement of `path` that was killed between its two renames, or after them."""
    old = _old_of(path)
    if not old.exists():
        return
    if os.path.lexists(path):
        remove(old)
    else:
        os.rename(old, path)


def restore_all(folder: Path, pattern: str) -> None:
    """`restore` whatever in `folder` has a name of that pattern."""
    for old in folder.glob(f".{pattern}.old"):
        restore(old.with_name(old.name.removeprefix(".").removesuffix(".old")))


def _old_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or all that is in a folder, is on the disk."""
    if not path.is_dir():
        _sync_file(path)
        return
    for folder, _, files in os.walk(path):
        for name in files:
            _sync_file(Path(folder, name))
        sync_folder(Path(folder))


def _sync_file(path: Path) -> None:
    if not path.is_symlink():
        with open(path, "rb+") as file:
            os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can tell."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step; False where the kernel or file system cannot (NFS, other systems)."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    names = os.fsencode(first), os.fsencode(second)
    return rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0
