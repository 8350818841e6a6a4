"""Where copies and tokens are kept, all of which can be made again."""

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
    """Where what can be made again is kept: $XTUNER_CACHE, ~/.cache/xtuner, else the temporary folder."""
    chosen = os.environ.get("XTUNER_CACHE")
    folder = Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "xtuner"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if writable or chosen:
        return folder
    other = Path(tempfile.gettempdir()) / f"xtuner-cache-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    say_once(
        "{folder} cannot be written to: using {other}; set XTUNER_CACHE to choose another folder",
        folder=folder,
        other=other,
    )
    return other


@contextlib.contextmanager
def explained_disk_errors(folder: Path, what: str) -> Iterator[None]:
    """DataError where `what` cannot be written to `folder` as the disk is full or closed to us."""
    try:
        yield
    except OSError as error:
        refused = error.errno in (errno.EACCES, errno.EPERM) and str(error.filename or "").startswith(
            str(folder.parent)
        )
        if not refused and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
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
