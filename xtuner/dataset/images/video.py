"""Videos as frames: `clip.mp4#frame=3/8` is the third of eight frames at equal distances, an image.

seconds    0 . 1 . 2 . 3 . 4      of 4 frames in 4 s: those at 0.5, 1.5, 2.5 and 3.5 s
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from xtuner.dataset.images.decode import MAX_PIXELS
from xtuner.errors import ConfigError, DataError
from xtuner.extras import install_extra
from xtuner.language import translate

if TYPE_CHECKING:
    from PIL.Image import Image

_FRAME = re.compile(r"#frame=(\d+)/(\d+)$")


@dataclass(frozen=True)
class Frame:
    """One of `count` frames of a video, counted from 1."""

    path: str
    number: int
    count: int


def check_frames(count: int) -> int:
    """`count`, the setting `video_frames`; ConfigError if it is below 1."""
    if count < 1:
        raise ConfigError(translate("video_frames is {count}: write 1 or more", count=count))
    return count


def frame_names(path: str, count: int) -> list[str]:
    """The names of `count` frames of the video `path`."""
    return [f"{path}#frame={number}/{count}" for number in range(1, count + 1)]


def find_frame(name: str) -> Frame | None:
    """The frame that is named; None for the name of an image."""
    found = _FRAME.search(name)
    return None if found is None else Frame(name[: found.start()], int(found[1]), int(found[2]))


def read_frames(file: BinaryIO, frames: Sequence[Frame], name: str) -> list[Image]:
    """The frames of the video in `file`, upright; DataError, which names it `name`.

    What lies between two of them is decoded, or left out where a keyframe lies there too. ConfigError without
    PyAV: what lacks is no fault of a row.
    """
    with _opened(file, name) as (container, stream):
        start, seconds = float((stream.start_time or 0) * stream.time_base), _seconds(container, stream)
        shown: list[Image] = []
        before, last, decoded = 0.0, None, None
        for frame in frames:
            wanted = start + (frame.number - 0.5) / frame.count * seconds
            if last is None or wanted < before or not _is_near(stream, last, wanted):
                last, decoded = None, _decoded_from(container, stream, wanted)
            last, before = _first_at(wanted, last, decoded), wanted
            shown.append(_upright(last, name))
        return shown


def _decoded_from(container: Any, stream: Any, wanted: float) -> Iterator[Any]:
    """The frames from a keyframe at `wanted` seconds or earlier on; from the first if none can be found."""
    container.seek(int(wanted / stream.time_base), stream=stream)
    decoded = container.decode(stream)
    first = next(decoded, None)
    if first is None or first.time is None or first.time > wanted:
        # A format without an index, whose positions are guessed.
        container.seek((stream.start_time or 0) - int(1 / stream.time_base), stream=stream)
        return container.decode(stream)
    return itertools.chain([first], decoded)


def _first_at(wanted: float, last: Any, decoded: Any) -> Any:
    """The first frame at `wanted` seconds or later, from `last` on; the last one if there is none."""
    for frame in itertools.chain([] if last is None else [last], decoded):
        last = frame
        if last.time is not None and last.time + 1e-6 >= wanted:
            break
    return last


def _is_near(stream: Any, last: Any, wanted: float) -> bool:
    """Whether no keyframe lies between the frame `last` and the second `wanted`."""
    index = getattr(stream, "index_entries", None)  # none in some formats
    if not index or last.time is None:
        return False
    keys = [index.search_timestamp(int(time / stream.time_base)) for time in (last.time, wanted)]
    return keys[0] == keys[1]


def frame_size(file: BinaryIO, name: str) -> tuple[int, int]:
    """Width and height of the frames of a video, by its first."""
    with _opened(file, name) as (container, stream):
        return _upright(next(container.decode(stream), None), name).size


@contextlib.contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[tuple[Any, Any]]:
    try:
        import av
    except ImportError:
        what = "videos are read by PyAV, which is not installed: {command}"
        raise ConfigError(translate(what, command=install_extra("video"))) from None
    try:
        with av.open(file) as container:
            if not container.streams.video:
                raise DataError(translate("{name} has no pictures: it is no video", name=name))
            stream = container.streams.video[0]
            if stream.width * stream.height > MAX_PIXELS:
                what = "the video {name} has {width} x {height} pixels: scale it down"
                raise DataError(translate(what, name=name, width=stream.width, height=stream.height))
            yield container, stream
    except DataError:
        raise
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise DataError(
            translate("the video {name} cannot be read: {error}", name=name, error=error)
        ) from error


def _seconds(container: Any, stream: Any) -> float:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1_000_000


def _upright(frame: Any, name: str) -> Image:
    if frame is None:
        raise DataError(translate("the video {name} has no frames", name=name))
    rotation = getattr(frame, "rotation", 0) or 0
    image = frame.to_image()
    return image.rotate(rotation, expand=True) if rotation else image
