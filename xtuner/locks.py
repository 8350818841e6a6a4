"""Locks, so that only one process writes a file or folder at a time.

    work_dirs/a            is locked by    work_dirs/a/.lock        (folder=True)
    merged                 is locked by    .merged.lock

The system releases a lock when its process ends, also if it is killed: a file left behind does not block.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.log import say_once

# A forked child would hold the locks of its parent after the parent has ended.
_held: set[int] = set()


def _close_all() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_all)


@contextlib.contextmanager
def writing(path: Path, what: str, *, folder: bool = False) -> Iterator[None]:
    """Lock `path` for writing; ConfigError, which names it as `what`, if another process holds the lock."""

    def refuse(holder: str) -> None:
        who = holder or translate("another process")
        raise ConfigError(
            translate(
                "{what} {path} is in use by {who}: wait for its end, or name another",
                what=what,
                path=path,
                who=who,
            )
        )

    lock = path / ".lock" if folder else path.with_name(f".{path.name}.lock")
    with contextlib.ExitStack() as held:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(lock, refuse))
        except OSError as error:
            reason = _reason(lock.parent) or error.strerror
            raise ConfigError(
                translate("cannot write to {what} {path}: {reason}", what=what, path=path, reason=reason)
            ) from error
        yield


def _reason(folder: Path) -> str:
    """The reason why `folder` cannot be made, if a file or link is in its path; else `""`."""
    for above in (folder, *folder.parents):
        if above.is_symlink() and not above.exists():
            return translate(
                "{path} is a link to {to}, which does not exist", path=above, to=os.readlink(above)
            )
        if above.exists():
            return "" if above.is_dir() else translate("{path} is not a folder", path=above)
    return ""


@contextlib.contextmanager
def locked(path: Path, when_taken: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file `path`; it is removed at the end.

    If another process holds it, `when_taken` is called with its description, and this waits.
    """
    descriptor = _take(path, when_taken)
    if descriptor is None:
        yield
        return
    _held.add(descriptor)
    try:
        since = time.strftime("%m/%d %H:%M")
        # The lock holds even if the disk is full or the file belongs to another user.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}, since {since}".encode())
        yield
    finally:
        # A forked child has closed it and must not remove its parent's file.
        if descriptor in _held:
            _held.discard(descriptor)
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(descriptor)


def _take(path: Path, when_taken: Callable[[str], None]) -> int | None:
    """A descriptor of `path` that holds its lock; None if the system has no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    is_logged = False
    while True:
        descriptor = _open(path)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not is_logged:
                    when_taken(os.read(descriptor, 200).decode("utf-8", "replace"))
                is_logged = True
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            # The previous holder may have removed the file between opening and locking it.
            if _is_there(path, descriptor):
                return descriptor
            os.close(descriptor)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
            say_once(
                "{parent} does not support file locks: whether another process writes there is not checked",
                parent=path.parent,
            )
            path.unlink(missing_ok=True)
            return None
        except BaseException:
            os.close(descriptor)
            raise


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        # A file left by another user's killed run can be locked without write access.
        return os.open(path, os.O_RDONLY)


def _is_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
