"""Frames of a video, evenly spaced, as RGB images with their times.

    sample_frames("cat.mp4", num_frames=4)          a video of 10 frames: frames 0, 3, 6, 9
    sample_frames("cat.mp4", fps=1, max_frames=64)  the frame shown at each second; at most 64, evenly spaced

The times of all frames are read from the packets without decoding them. So the frames are exact, and only the
parts around them are decoded.
"""

from __future__ import annotations

import bisect
import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xtuner.dataset.images.decode import MAX_PIXELS
from xtuner.errors import DataError
from xtuner.extras import install_extra
from xtuner.language import translate
from xtuner.log import say_once

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_VIDEO_PIXELS = 4 * MAX_PIXELS
"""The frames of one video are shrunk so that together they have no more pixels."""


@dataclass(frozen=True)
class Frames:
    """Frames of a video as RGB images, the time of each and the length of the video in seconds."""

    images: list[Image]
    times: list[float]
    duration: float


@dataclass(frozen=True)
class _Index:
    """The frames of a video in the order of their times, in units of the stream."""

    times: list[int]
    key_times: list[int]  # of frames that are decoded without others


def sample_frames(
    video: str | os.PathLike | bytes,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    max_frames: int | None = None,
    name: str | None = None,
) -> Frames:
    """`num_frames` frames of a video, or `fps` frames of each second of it, at most `max_frames`.

    A video of fewer frames gives all that it has. `video` is a path or the content of a file; errors call it
    `name`. DataError of one line if it is damaged, or if PyAV is not installed.
    """
    assert (num_frames is None) != (fps is None), "either num_frames or fps"
    name = name or (translate("the video") if isinstance(video, bytes) else os.fspath(video))
    with _one_error(name) as av:
        file = io.BytesIO(video) if isinstance(video, bytes) else os.fspath(video)
        # Playlists name other files and addresses; those in the content of a row are not read.
        protocols = "none" if isinstance(video, bytes) else "file"
        with av.open(file, options={"protocol_whitelist": protocols}) as container:
            if not container.streams.video:
                raise DataError(translate("{name} has no video: it may be a sound", name=name))
            stream = container.streams.video[0]
            stream.thread_type = "NONE"  # data workers are parallel already
            index = _read_index(container, stream, name)
            unit = float(stream.time_base)
            start, length = index.times[0] * unit, _duration(index, stream)
            indices = _evenly(index, num_frames, max_frames)
            if fps is not None:
                indices = _at_rate(index, fps, max_frames, unit, length)
            times = [index.times[i] for i in indices]
            images = list(_decode(container, stream, index, times, name))
    return Frames(images, [time * unit - start for time in times], length)


def _read_index(container: Any, stream: Any, name: str) -> _Index:
    times, key_times = [], []
    for packet in container.demux(stream):
        if packet.pts is not None and packet.size:
            times.append(packet.pts)
            if packet.is_keyframe:
                key_times.append(packet.pts)
    if not times or len(times) < stream.frames:
        raise DataError(
            translate(
                "the video {name} is cut off: it has {here:,} of {all:,} frames",
                name=name,
                here=len(times),
                all=stream.frames,
            )
            if stream.frames
            else translate("the video {name} has no frames", name=name)
        )
    return _Index(sorted(times), sorted(key_times) or [min(times)])


def _duration(index: _Index, stream: Any) -> float:
    """Seconds from the first frame to the end of the last, which is shown as long as the average one."""
    span = (index.times[-1] - index.times[0]) * float(stream.time_base)
    if len(index.times) > 1:
        return span * len(index.times) / (len(index.times) - 1)
    rate = stream.average_rate
    return 1 / float(rate) if rate else 0.0


def _evenly(index: _Index, count: int | None, most: int | None) -> list[int]:
    """`count` of the frames, with the first and the last, at most `most`."""
    total = len(index.times)
    count = min(number for number in (total, count, most) if number is not None)
    return [round(i * (total - 1) / (count - 1)) for i in range(count)] if count > 1 else [(total - 1) // 2]


def _at_rate(index: _Index, fps: float, most: int | None, unit: float, length: float) -> list[int]:
    """The frames that are shown at 0, 1 / fps, 2 / fps, ... seconds."""
    count = max(1, int(length * fps + 1e-6))
    wanted = [index.times[0] + int(i / fps / unit + 1e-6) for i in range(count)]
    indices = sorted({max(0, bisect.bisect_right(index.times, time) - 1) for time in wanted})
    if most is not None and len(indices) > most:
        last = len(indices) - 1
        chosen = [round(i * last / (most - 1)) for i in range(most)] if most > 1 else [last // 2]
        indices = [indices[i] for i in chosen]
    return indices


def _decode(container: Any, stream: Any, index: _Index, times: Sequence[int], name: str) -> Iterator[Image]:
    """The images of the frames at `times`, which ascend."""
    frames: Iterator[Any] = iter(())
    position: int | None = None  # the time of the frame decoded last
    for time in times:
        key = index.key_times[max(0, bisect.bisect_right(index.key_times, time) - 1)]
        if position is None or key > position:
            container.seek(key, stream=stream)
            frames = container.decode(stream)
        frame = next((f for f in frames if f.pts is not None and f.pts >= time), None)
        if frame is None:
            at = (time - index.times[0]) * float(stream.time_base)
            raise DataError(
                translate("the video {name} is damaged: its frame at {at:.2f} s is missing", name=name, at=at)
            )
        position = frame.pts
        yield _image(frame, len(times))


def _image(frame: Any, count: int) -> Image:
    """The frame as an RGB image, upright, of at most its part of MAX_VIDEO_PIXELS."""
    width, height = frame.width, frame.height
    most = MAX_VIDEO_PIXELS / count
    if width * height > most:
        say_once(
            "frames of large videos are shrunk: together they may have {pixels:,} pixels",
            pixels=MAX_VIDEO_PIXELS,
        )
        scale = (most / (width * height)) ** 0.5
        width, height = max(1, int(width * scale)), max(1, int(height * scale))
    image = frame.to_image(width=width, height=height)
    # Phones turn a video by a note in the file, counter-clockwise in degrees.
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


@contextlib.contextmanager
def _one_error(name: str) -> Iterator[Any]:
    """PyAV; its errors are raised as DataErrors of one line."""
    try:
        import av
    except ImportError:
        raise DataError(
            translate(
                "{name}: reading videos needs PyAV: {command}", name=name, command=install_extra("video")
            )
        ) from None
    try:
        yield av
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(translate("There is no video {name}", name=name)) from error
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            translate("the video {name} cannot be read: {reason}", name=name, reason=reason)
        ) from error
