"""Short hashes of files, model folders and tensors; of large ones, of parts at equal distances.

data.jsonl           all bytes up to 64 MiB, of several files together; else its size and blocks of 64 KiB
*.safetensors        of each tensor its name, dtype and shape, and its first and last 2 KiB: every tensor
                     is looked at, in a few thousand small reads, and a folder divided into other files
                     has the same hash
a tensor             dtype, shape and at most 65,536 values
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

WHOLE_BYTES = 64 * 2**20
BLOCK_BYTES = 64 * 2**10
EDGE_BYTES = 2 * 2**10
MAX_VALUES = 2**16


def hash_of(parts: Iterable[bytes | str]) -> str:
    """Sixteen hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def hash_file(path: Path, num_files: int = 1) -> str:
    """The hash of a file, one of so many: of a larger one than its share, a quarter of that is read."""
    size, share = path.stat().st_size, WHOLE_BYTES >> (num_files - 1).bit_length()
    with path.open("rb") as file:
        if size <= share:
            return hash_of([file.read()])
        block = max(1, min(BLOCK_BYTES, share // 8))
        starts = np.linspace(0, size - block, max(2, share // 4 // block)).astype(np.int64).tolist()
        return hash_of([str(size), *(_read(file, start, block) for start in starts)])


def hash_weights(folder: Path, patterns: Iterable[str]) -> str:
    """The hash of all weights of a model folder, whose files have names of these patterns."""
    tensors: list[str] = []
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        found = _tensors(path) if path.suffix == ".safetensors" else [f"{path.name} {hash_file(path)}"]
        tensors += found
    return hash_of(sorted(tensors))


def _tensors(path: Path) -> list[str]:
    """A line for each tensor of a safetensors file: the length of its header, the header, the data."""
    with path.open("rb") as file:
        length = int.from_bytes(_read(file, 0, 8), "little")
        header = json.loads(_read(file, 8, length))
        start, found = 8 + length, []
        for name, about in header.items():
            if name == "__metadata__":
                continue
            begin, end = (start + offset for offset in about["data_offsets"])
            size = min(EDGE_BYTES, end - begin)
            edges = hash_of([_read(file, begin, size), _read(file, end - size, size)])
            found.append(f"{name} {about['dtype']} {about['shape']} {edges}")
    return found


def _read(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start, os.SEEK_SET)
    return file.read(size)


def some_values(tensor: torch.Tensor, count: int = MAX_VALUES) -> torch.Tensor:
    """At most `count` values of a tensor at equal distances, on the host."""
    flat = tensor.detach().reshape(-1)
    step = max(1, -(-flat.numel() // count))
    return flat[::step].cpu()


def hash_tensor(tensor: torch.Tensor) -> str:
    """The hash of a tensor."""
    # A copy: FSDP could not resize a storage that numpy has seen.
    values = some_values(tensor).contiguous().clone()
    return hash_of([f"{tensor.dtype} {list(tensor.shape)}", values.view(torch.uint8).numpy().tobytes()])
