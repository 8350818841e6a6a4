"""Files with a JSON object a line, to which a run appends; a kill may cut the last line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any


def repair(path: Path) -> int:
    """Cut off a last line that was not written to its end; returns the number of whole lines."""
    if not path.exists():
        return 0
    with path.open("rb+") as file:
        count = end = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            count, end = count + 1, end + len(line)
        file.truncate(end)
    return count


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file."""
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def append(file: IO[bytes], values: Iterable[Any], *, sync: bool = True) -> None:
    """Write a line for each value; they outlive the process, and with `sync` a crash of the machine."""
    file.write("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode())
    file.flush()
    if sync:
        os.fsync(file.fileno())
