"""`ImageSource` opens the image that a row names, in whatever form it names one.

source = ImageSource("data/images")           or "data/images.zip", "data/images.tar/train"
source.image("cat.jpg")                       an RGB image of Pillow
source.size("cat.jpg")                        (640, 480), from the header alone

"cat.jpg"                                     in the folder or archive of the source
"/other/cat.jpg", "file:///other/cat.jpg"     elsewhere, unless the source is confined
"shard-000.tar/cat.jpg"                       in an archive
"data:image/png;base64,iVBOR..."              in the row itself
{"bytes": b"...", "path": "cat.jpg"}          as image columns of `datasets` are stored
an image of Pillow, bytes
"clip.mp4#frame=3/8"                          a frame of a video in any of these places
"https://host/cat.jpg"                        refused, unless the source fetches
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import itertools
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from xtuner.data_files import WEB
from xtuner.dataset.images.archives import SUFFIXES, Archive, clean
from xtuner.dataset.images.decode import convert_image, decode_image, image_size, unreadable
from xtuner.dataset.images.video import Frame, find_frame, frame_size, read_frames
from xtuner.dataset.reading.copies import fetched
from xtuner.errors import DataError, NotFoundError
from xtuner.language import translate

if TYPE_CHECKING:
    from PIL.Image import Image

_IN_ARCHIVE = re.compile(rf"(?i)(?:{'|'.join(map(re.escape, SUFFIXES))})(?=[/\\]|$)")
_SCHEME = re.compile(r"(?i)data(?=:)|[a-z][a-z0-9+.-]+(?=://)")


class ImageSource:
    """Opens images relative to `folder`, a folder or a `.zip` or `.tar` archive; the working folder if None.

    All errors are DataErrors of one line that name the file. If the source `is_confined`, names outside of
    `folder` are errors: for names that others send. If it `fetches`, images of the web are downloaded once,
    into the cache. It may be pickled, and used by threads and processes.
    """

    def __init__(
        self,
        folder: str | os.PathLike | None = None,
        *,
        is_confined: bool = False,
        fetches: bool = False,
        setting: str | None = None,
    ) -> None:
        """`setting`: what the user calls `folder`, where rows name the images."""
        self.folder = None if folder is None else os.path.expanduser(folder)
        self.is_confined = is_confined
        self.fetches = fetches
        self._setting = setting
        self._archives: dict[str, Archive] = {}
        self._frame_sizes: dict[str, tuple[int, int]] = {}  # of videos
        if self.folder is not None:
            self._check_folder(self.folder)

    def image(self, value: Any) -> Image:
        """The RGB image that `value` names or holds."""
        from PIL import Image

        if isinstance(value, Image.Image):
            return convert_image(value, translate("the image of the row"))
        if self._frame(value) is not None:
            return next(self.images([value]))
        item = self._item(value)
        return decode_image(item.read(), item.name)

    def images(self, values: Sequence[Any]) -> Iterator[Image]:
        """`image` of each value; frames of a video that follow one another are read at once."""
        named = [(value, self._frame(value)) for value in values]
        for path, group in itertools.groupby(named, lambda one: None if one[1] is None else one[1].path):
            if path is None:
                yield from (self.image(value) for value, _ in group)
                continue
            item = self._item(path)
            with item.open() as file:
                shown = read_frames(file, [frame for _, frame in group if frame is not None], item.name)
            yield from (convert_image(image, item.name) for image in shown)

    def size(self, value: Any) -> tuple[int, int]:
        """Width and height of `image(value)`, without decoding it."""
        from PIL import Image

        if isinstance(value, Image.Image):
            return convert_image(value, translate("the image of the row")).size
        if (frame := self._frame(value)) is not None:
            return self._frame_size(frame.path)
        item = self._item(value)
        with item.open() as file:
            return image_size(file, item.name)

    def identity(self, value: Any) -> tuple[Any, ...]:
        """Plain values that change if the image changes: the key of its pixels in a cache."""
        from PIL import Image

        if isinstance(value, Image.Image):
            return value.mode, value.size, hashlib.blake2b(value.tobytes(), digest_size=16).hexdigest()
        if (frame := self._frame(value)) is not None:
            return (*self._item(frame.path).identity(), frame.number, frame.count)
        return self._item(value).identity()

    def _frame(self, value: Any) -> Frame | None:
        """The frame of a video that is named; what others send is never read as one."""
        if isinstance(value, Mapping) and value.get("bytes") is None:
            value = value.get("path")
        return find_frame(value) if isinstance(value, str) and not self.is_confined else None

    def _frame_size(self, path: str) -> tuple[int, int]:
        if path not in self._frame_sizes:
            item = self._item(path)
            with item.open() as file:
                self._frame_sizes[path] = frame_size(file, item.name)
        return self._frame_sizes[path]

    def _check_folder(self, folder: str) -> None:
        """Open the archive of the source, so that its list is read before workers are started."""
        found = _split_at_archive(folder)
        if found is not None:
            self._archive(found[0])
        elif not os.path.isdir(folder):
            raise NotFoundError(translate("there is no folder or archive of images {path}", path=folder))

    def _item(self, value: Any) -> _Item:
        if isinstance(value, Mapping) and value.keys() & {"bytes", "path"}:
            data, path = value.get("bytes"), value.get("path")
            if data is None and path is None:
                raise DataError(translate("an image of the row has neither bytes nor a path"))
            return self._item(path) if data is None else _Held(bytes(data), str(path or _bytes_name(data)))
        if isinstance(value, (bytes, bytearray, memoryview)):
            return _Held(bytes(value), _bytes_name(value))
        if not isinstance(value, (str, os.PathLike)) or "\0" in os.fspath(value):
            raise DataError(
                translate(
                    "{value:.60} is no image: give the path of a file, a data: URL, bytes, or an object with "
                    "bytes and path",
                    value=repr(value),
                )
            )
        name = os.fspath(value)
        scheme = _SCHEME.match(name)
        return self._of_path(name) if scheme is None else self._of_url(name, scheme[0].lower())

    def _of_url(self, url: str, scheme: str) -> _Item:
        if scheme == "data":
            return _Held(data_of_url(url, url[:40]), url[:40])
        if scheme == "file":
            return self._of_path(_path_of(url))
        if not (self.fetches and url.lower().startswith(WEB)):
            raise DataError(
                translate("{url:.200} is not fetched: download the image first, and name the file", url=url)
            )
        try:
            return _File(str(fetched(url)), url)
        except NotFoundError as error:
            raise DataError(str(error)) from error

    def _of_path(self, name: str) -> _Item:
        path = os.path.join(self.folder or "", os.path.expanduser(name))
        if self.is_confined:
            self._check_inside(path, name)
        found = _split_at_archive(path)
        if found is None:
            return _File(path, path, partial(self._cure, name))
        return _Member(self._archive(found[0]), found[1])

    def _cure(self, name: str) -> str:
        """What to do if there is no file of a `name` in a row; "" where no setting would find it."""
        if self._setting is None or os.path.isabs(os.path.expanduser(name)):
            return ""
        return translate(
            ": set {setting} to the folder that this name begins in"
            if self.folder is None
            else ": the row names {name}, and {setting} is {folder}",
            name=name,
            setting=self._setting,
            folder=self.folder,
        )

    def _check_inside(self, path: str, name: str) -> None:
        folder = os.path.realpath(self.folder or os.devnull)
        if not os.path.realpath(path).startswith(folder + os.sep):
            raise DataError(
                translate(
                    "{name:.200} is outside of {folder}: only images in it are read",
                    name=name,
                    folder=self.folder,
                )
            )

    def _archive(self, path: str) -> Archive:
        if path not in self._archives:
            self._archives[path] = Archive(path)
        return self._archives[path]


class _Item(Protocol):
    """The file of an image, wherever it is."""

    @property
    def name(self) -> str: ...
    def read(self) -> bytes: ...
    def open(self) -> BinaryIO: ...
    def identity(self) -> tuple[Any, ...]: ...


@dataclass(frozen=True)
class _Held:
    """A file in memory."""

    data: bytes
    name: str

    def read(self) -> bytes:
        return self.data

    def open(self) -> BinaryIO:
        return io.BytesIO(self.data)

    def identity(self) -> tuple[Any, ...]:
        return (hashlib.blake2b(self.data, digest_size=16).hexdigest(),)


@dataclass(frozen=True)
class _File:
    """A file on the disk."""

    path: str
    name: str
    cure: Callable[[], str] = str  # if there is none

    def read(self) -> bytes:
        with self.open() as file:
            try:
                return file.read()
            except OSError as error:
                raise unreadable(self.path, error) from error

    def open(self) -> BinaryIO:
        try:
            return open(self.path, "rb")
        except OSError as error:
            raise unreadable(self.path, error, self.cure()) from error

    def identity(self) -> tuple[Any, ...]:
        try:
            state = os.stat(self.path)
        except OSError as error:
            raise unreadable(self.path, error, self.cure()) from error
        return os.path.abspath(self.path), state.st_size, state.st_mtime_ns


@dataclass(frozen=True)
class _Member:
    """A file in an archive."""

    archive: Archive
    inner: str

    @property
    def name(self) -> str:
        return f"{self.archive.path}/{self.inner}"

    def read(self) -> bytes:
        return self.archive.read(self.inner)

    def open(self) -> BinaryIO:
        return self.archive.open(self.inner)

    def identity(self) -> tuple[Any, ...]:
        return self.archive.identity(self.inner)


def data_of_url(url: str, name: str) -> bytes:
    """The content of a `data:` URL in base64; DataError, which names it `name`."""
    head, comma, body = url.strip().partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise DataError(
            translate("{name}: the image must be in base64: data:image/png;base64,...", name=name)
        )
    try:
        return base64.b64decode(urllib.parse.unquote(body), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(translate("{name}: this is not base64: {error}", name=name, error=error)) from error


def _path_of(url: str) -> str:
    """The path of a file: URL; DataError if it names another machine."""
    try:
        return urllib.request.url2pathname(urllib.parse.urlsplit(url).path)
    except urllib.error.URLError as error:  # since Python 3.14
        raise DataError(translate("{url:.200} is no file of this machine", url=url)) from error


def _split_at_archive(path: str) -> tuple[str, str] | None:
    """The archive in `path` and the name in it, or None: `a.zip/b.jpg` -> (`a.zip`, `b.jpg`)."""
    for match in _IN_ARCHIVE.finditer(path):
        if os.path.isfile(path[: match.end()]):
            return path[: match.end()], clean(path[match.end() :].lstrip("/\\"))
    return None


def _bytes_name(data: Any) -> str:
    return translate("the image of {size:,} bytes", size=len(data))
