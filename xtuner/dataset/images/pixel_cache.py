"""What a processor makes of images, kept on the disk up to a number of bytes.

    cache = PixelCache("pixels", max_bytes=100 * 2**30, settings=processor.to_json_string())
    cache.get([source.identity("cat.jpg")], lambda numbers: [{"pixel_values": ...}])      made once, then read

    pixels/3f/3fa9...   a checksum and the tensors as safetensors; the file has the time of its last use

Several processes may use one folder. Any entry may be missing or damaged: it is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtuner.atomic import written
from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.log import say_once

if TYPE_CHECKING:
    from torch import Tensor

Tensors = dict[str, "Tensor"]

_CHECKSUM_BYTES = 4
_OF_USE_S = 60.0  # the time of an entry is written at most once in so many seconds
_OF_PARTS_S = 3600.0  # a part that is older was left by a process that was killed


class PixelCache:
    """Tensors of images in `folder`, at most `max_bytes` of them: the least recently used are removed.

    `settings` is a text that changes if the tensors do: of an image processor, `to_json_string()`. A process
    counts the entries of all when it has written a 64th of `max_bytes`, so up to eight stay within the limit.
    """

    def __init__(self, folder: str | os.PathLike, max_bytes: int, settings: str) -> None:
        if max_bytes < 1:
            raise ConfigError(
                translate("max_bytes is {max_bytes}: it must be at least 1", max_bytes=max_bytes)
            )
        self.folder = Path(folder).expanduser()
        self.max_bytes = max_bytes
        self._settings = hashlib.blake2b(repr((settings, _versions())).encode()).digest()
        self._uncounted = max_bytes  # bytes written since all entries were counted; the first entry counts

    def get(
        self,
        identities: Sequence[tuple[Any, ...]],
        make: Callable[[Sequence[int]], Iterable[Mapping[str, Tensor]]],
    ) -> list[Tensors]:
        """The tensors of the images that `identities` identify: of the cache, or made and added to it.

        `make` gives those of the images with the numbers that it is given, the missing ones.
        """
        found = {n: tensors for n, one in enumerate(identities) if (tensors := self.read(one)) is not None}
        missing = [n for n in range(len(identities)) if n not in found]
        for number, made in zip(missing, make(missing), strict=True):
            found[number] = dict(made)
            self.add(identities[number], found[number])
        return [found[n] for n in range(len(identities))]

    def has(self, identity: tuple[Any, ...]) -> bool:
        """Whether there is an entry for the image, which may be damaged."""
        return self._path(identity).exists()

    def read(self, identity: tuple[Any, ...]) -> Tensors | None:
        """The tensors of the image, or None if its entry is missing or damaged, which removes it."""
        return _read(self._path(identity))

    def size(self) -> int:
        """The bytes of all entries."""
        return sum(size for _, size, _ in self._entries())

    def _path(self, identity: tuple[Any, ...]) -> Path:
        name = hashlib.blake2b(self._settings + repr(identity).encode("utf-8", "surrogatepass")).hexdigest()[
            :40
        ]
        return self.folder / name[:2] / name

    def add(self, identity: tuple[Any, ...], tensors: Mapping[str, Tensor]) -> None:
        """Add the tensors of an image; what cannot be written is logged."""
        from safetensors.torch import save

        path = self._path(identity)
        content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        content = zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "little") + content
        if len(content) > self.max_bytes:
            say_once("an image needs {size:,} bytes: more than all of the cache may have", size=len(content))
            return
        try:
            self._make_space(len(content))
            path.parent.mkdir(parents=True, exist_ok=True)
            with written(path, shared=True, synced=False) as part:
                part.write_bytes(content)
        except OSError as error:
            say_once(
                "pixels cannot be kept in {folder}: {error}",
                folder=self.folder,
                error=error.strerror or error,
            )

    def _make_space(self, size: int) -> None:
        """Remove the least recently used entries if `size` more bytes could be too many."""
        self._uncounted += size
        if self._uncounted <= self.max_bytes // 64:
            return
        self._uncounted = 0
        entries = sorted(self._entries())
        total = sum(each for _, each, _ in entries) + size
        if total <= self.max_bytes // 8 * 7:
            return
        say_once(
            "the cache of pixels in {folder} is full: old ones are removed", logging.INFO, folder=self.folder
        )
        for _, each, path in entries:
            if total <= self.max_bytes // 4 * 3:
                break
            with contextlib.suppress(OSError):  # another process has removed it, or reads it
                os.unlink(path)
            total -= each

    def _entries(self) -> Iterator[tuple[float, int, str]]:
        """Time of last use, size and path of each entry; parts of killed processes are removed."""
        for folder in _scan(self.folder):
            for entry in _scan(folder.path) if folder.is_dir() else ():
                with contextlib.suppress(OSError):
                    state = entry.stat()
                    if entry.name.endswith(".part") and time.time() - state.st_mtime > _OF_PARTS_S:
                        os.unlink(entry.path)
                    else:
                        yield state.st_mtime, state.st_size, entry.path


def _read(path: Path) -> Tensors | None:
    """The tensors of an entry, or None if it is missing or damaged."""
    from safetensors.torch import load

    try:
        content = path.read_bytes()
        checksum, content = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
        if zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "little") != checksum:
            os.unlink(path)
            return None
        tensors = load(content)
        if time.time() - path.stat().st_mtime > _OF_USE_S:
            os.utime(path)
        return tensors
    except OSError:
        return None


def _scan(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(str(folder)) as entries:
            return list(entries)
    except OSError:
        return []


def _versions() -> tuple[str, ...]:
    """Versions of the packages that decode and process images."""
    import PIL
    import transformers

    return PIL.__version__, transformers.__version__
