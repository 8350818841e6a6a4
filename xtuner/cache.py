"""The cache folder for copies of files and for tokens; all of it can be made again."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from xtuner.errors import DataError
from xtuner.language import translate
from xtuner.log import say_once


def cache_folder() -> Path:
    """The cache folder: $XTUNER_CACHE, else ~/.cache/xtuner, else one in the temporary folder."""
    configured = os.environ.get("XTUNER_CACHE")
    folder = Path(configured).expanduser() if configured else Path.home() / ".cache" / "xtuner"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_writable = os.access(folder, os.W_OK)
    except OSError:
        is_writable = False
    if is_writable or configured:
        return folder
    fallback = (
        Path(tempfile.gettempdir()) / f"xtuner-cache-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    )
    say_once(
        "{folder} cannot be written to: using {other}; set XTUNER_CACHE to choose another folder",
        folder=folder,
        other=fallback,
    )
    return fallback


@contextlib.contextmanager
def explained_disk_errors(folder: Path, what: str) -> Iterator[None]:
    """DataError if `what` cannot be written to `folder`: disk full, read-only or no permission."""
    try:
        yield
    except OSError as error:
        is_forbidden = error.errno in (errno.EACCES, errno.EPERM) and str(error.filename or "").startswith(
            str(folder.parent)
        )
        if not is_forbidden and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise DataError(
            translate(
                "{what} cannot be written to {parent}: {error}. Free some space there, or set "
                "XTUNER_CACHE to another folder",
                what=what,
                parent=folder.parent,
                error=error.strerror or error,
            )
        ) from error
