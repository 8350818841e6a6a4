"""A file of torch: a zip archive of tensors with a checksum each, read without running anything from it."""

from __future__ import annotations

import math
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from xtuner.errors import CheckpointError
from xtuner.language import translate


def save_archive(state: dict[str, Any], path: Path) -> None:
    """Write `state` to `path` and wait until it is on the disk."""
    with open(path, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def read_archive(path: Path) -> dict[str, Any]:
    """The dict in `path`; its tensors are mapped from the file."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            translate("{path} cannot be read: {error}", path=path, error=first_line)
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(translate("{path} is not a checkpoint: it has no 'state_dict'", path=path))
    return found


class InFiles:
    """Makes empty tensors whose memory is unnamed files of `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        num_bytes = math.prod(shape) * dtype.itemsize
        if not num_bytes:
            return torch.empty(shape, dtype=dtype)
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".", suffix=".part") as file:
            # A full disk is an error here, and the end of the process where it is written to.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            raw = torch.from_file(file.name, shared=True, size=num_bytes, dtype=torch.uint8)
        return raw.view(dtype).view(shape)


def is_archive(path: Path) -> bool:
    """Whether `path` ends as an archive does."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


def find_wrong_sum(path: Path) -> str | None:
    """What is wrong with `path`, or None if all of it reads and its checksums agree."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    # A flipped bit in a header looks like another name, an encrypted part, an unknown compression, ...
    except (OSError, zipfile.BadZipFile, EOFError, ValueError, RuntimeError) as error:
        return str(error) or translate("a part of it lies beyond its end")
    if bad:
        return translate("the checksum of {name} is wrong", name=bad)
    try:
        read_archive(path)  # maps the tensors, and so costs little
    except CheckpointError as error:
        return str(error)
    return None
