"""The images of a row, and marks in its texts instead of them.

content [{"type": "image_url", "image_url": {"url": "1.jpg"}}, {"type": "text", ...}]    MARK text, "1.jpg"
"<image>\\nWhat?", "image": "1.jpg"                                                       MARK What?
"What?", "image": "1.jpg"                                                                MARK What?
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from xtuner.dataset.images.video import frame_names
from xtuner.dataset.map_fns.fields import Row, turn_text
from xtuner.errors import DataError
from xtuner.language import translate
from xtuner.utils import DEFAULT_IMAGE_TOKEN

# Code points that are no characters, so no text of a user holds them.
IMAGE_MARK = "\ufdd0image\ufdd1"

_IMAGE_FIELDS, _VIDEO_FIELDS, _VIDEO_TOKEN = ("image", "images"), ("video", "videos"), "<video>"
_VIDEO_PARTS = ("video_url", "video", "input_video")
_PARTS = ("image_url", "image", "input_image")
_SOURCES = ("image_url", "image", "url", "path", "bytes", "base64")
# A line break beside a placeholder is a habit of the files: templates write their own.
_MARK = re.compile(IMAGE_MARK)
_PLACEHOLDERS = re.compile(f"{re.escape(DEFAULT_IMAGE_TOKEN)}|{_VIDEO_TOKEN}")
_PLACEHOLDER = re.compile(rf"\n?{re.escape(DEFAULT_IMAGE_TOKEN)}\n?")


def with_frames(row: Row, count: int) -> dict[str, Any]:
    """The row with `count` frames instead of each video of its messages, or of `video` or `videos`.

    {"video": "a.mp4", "image": "1.png", "conversations": [{"from": "human", "value": "<image><video>What?"}]}
    {"images": ["1.png", "a.mp4#frame=1/2", "a.mp4#frame=2/2"],
     "conversations": [{"from": "human", "value": "<image><image><image>What?"}]}
    """
    found = next((row[name] for name in _VIDEO_FIELDS if row.get(name)), None)
    if found is None:
        return _with_frames_in_messages(row, count)
    videos = found if isinstance(found, (list, tuple)) else [found]
    frames = [frame_names(_video_path(video), count) for video in videos]
    rest = {name: value for name, value in row.items() if name not in (*_VIDEO_FIELDS, *_IMAGE_FIELDS)}
    images = _in_order(_placeholders(rest), named_images(row), frames)
    return {**_replaced(rest, _VIDEO_TOKEN, DEFAULT_IMAGE_TOKEN * count), "images": images}


def _in_order(marks: Sequence[str], images: Sequence[Any], videos: Sequence[list[str]]) -> list[Any]:
    """The images and the frames of the videos, as the placeholders `marks` of the text have them."""
    num_videos, num_images = marks.count(_VIDEO_TOKEN), marks.count(DEFAULT_IMAGE_TOKEN)
    if num_videos and num_videos != len(videos):
        what = "the text has {count} <video>, and the row {videos} videos"
        raise DataError(translate(what, count=num_videos, videos=len(videos)))
    if not num_videos and images:
        what = "the row has images and videos: write <image> and <video> in its text where they belong"
        raise DataError(translate(what))
    if num_images > len(images):
        what = "the text has {count} <image>, and the row {images} images"
        raise DataError(translate(what, count=num_images, images=len(images)))
    rest = {_VIDEO_TOKEN: iter(videos), DEFAULT_IMAGE_TOKEN: iter([image] for image in images)}
    parts = [next(rest[mark]) for mark in marks]
    # What no placeholder asks for is behind: those who read the row say so.
    return [one for part in (*parts, *rest[_VIDEO_TOKEN], *rest[DEFAULT_IMAGE_TOKEN]) for one in part]


def _placeholders(value: Any) -> list[str]:
    """The `<image>` and `<video>` in all texts of `value`, in their order."""
    if isinstance(value, str):
        return _PLACEHOLDERS.findall(value)
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [mark for one in inner for mark in _placeholders(one)]


def _with_frames_in_messages(row: Row, count: int) -> dict[str, Any]:
    messages = row.get("messages")
    if not isinstance(messages, list) or not any(map(_has_video, messages)):
        return dict(row)
    changed = []
    for message in messages:
        if _has_video(message):
            parts: list[Any] = []
            for part in message["content"]:
                names = frame_names(_video_path(_video_of(part)), count) if _is_video(part) else None
                parts += [part] if names is None else [{"type": "image", "image": name} for name in names]
            message = {**message, "content": parts}
        changed.append(message)
    return {**row, "messages": changed}


def _has_video(message: Any) -> bool:
    content = message.get("content") if isinstance(message, Mapping) else None
    return isinstance(content, list) and any(map(_is_video, content))


def _is_video(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in _VIDEO_PARTS


def _video_of(part: Mapping[str, Any]) -> Any:
    value = next((part[name] for name in (*_VIDEO_PARTS, "url", "path") if part.get(name) is not None), None)
    return value["url"] if isinstance(value, Mapping) and "url" in value else value


def _video_path(value: Any) -> str:
    if isinstance(value, Mapping) and isinstance(value.get("path"), str):
        value = value["path"]
    if not isinstance(value, str):
        raise DataError(translate("{value:.60} is no video: give the path of a file", value=repr(value)))
    return value


def _replaced(value: Any, old: str, new: str) -> Any:
    """`value` with `new` for `old` in all its texts."""
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, Mapping):
        return {name: _replaced(inner, old, new) for name, inner in value.items()}
    return [_replaced(inner, old, new) for inner in value] if isinstance(value, list) else value


def with_marks(row: Row) -> tuple[dict[str, Any], list[Any]]:
    """The row with a mark instead of each image part of its messages, and its images in order."""
    columns = named_images(row)
    messages = row.get("messages")
    if not isinstance(messages, list) or not any(map(_has_image, messages)):
        return dict(row), columns
    rest, images = iter(columns), []
    changed = []
    for message in messages:
        if _has_image(message):
            parts = []
            for part in message["content"]:
                if not _is_image(part):
                    parts.append(part)
                    continue
                parts.append({"type": "text", "text": IMAGE_MARK})
                images.append(_source(part) if _source(part) is not None else next(rest, None))
            message = {**message, "content": parts}
        changed.append(message)
    if any(image is None for image in images):
        raise DataError(translate("a message has an image part without an image"))
    if next(rest, None) is not None:
        what = "the row has {images} images, and its messages have parts for {count}"
        raise DataError(translate(what, images=len(columns), count=len(images)))
    return {**row, "messages": changed}, images


def place_marks(messages: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The messages with `count` marks: as they are, for each `<image>`, or before all words."""
    marked = sum((message.get("content") or "").count(IMAGE_MARK) for message in messages)
    if marked == count:
        return messages
    written = sum((message.get("content") or "").count(DEFAULT_IMAGE_TOKEN) for message in messages)
    if written == count:
        return [
            {**message, "content": _PLACEHOLDER.sub(IMAGE_MARK, message["content"])}
            if message.get("content")
            else message
            for message in messages
        ]
    if marked or written:
        what = "the text has {count} <image>, and the row {images} images"
        raise DataError(translate(what, count=marked or written, images=count))
    first = next((n for n, message in enumerate(messages) if message.get("role") == "user"), None)
    if first is None:
        raise DataError(translate("the row has images, and its conversation no question for them"))
    question = {**messages[first], "content": IMAGE_MARK * count + (messages[first].get("content") or "")}
    return [*messages[:first], question, *messages[first + 1 :]]


def with_image_texts(turns: Sequence[Row], texts: Sequence[str], system: str) -> list[dict[str, Any]]:
    """The turns with the texts of images in their questions, each before a line break.

    `system`: of a conversation that has none.
    """
    messages = [
        {"role": role, "content": turn_text(turn, name)}
        for turn in turns
        for role, name in (("user", "input"), ("assistant", "output"))
    ]
    placed, rest = place_marks(messages, len(texts)), iter(texts)
    changed = []
    for turn, question, answer in zip(turns, placed[::2], placed[1::2], strict=True):
        if IMAGE_MARK in answer["content"]:
            raise DataError(translate("an answer has an image, which a prompt template cannot write"))
        words = _MARK.sub(
            lambda mark: next(rest) + "\n" * (mark.end() < len(mark.string)), question["content"]
        )
        changed.append({**turn, "input": words, "output": answer["content"]})
    if system and not any(turn_text(turn, "system") for turn in turns):
        changed[0]["system"] = system
    return changed


def named_images(row: Row) -> list[Any]:
    """The images of the row's `image` or `images`, in the forms that `ImageSource` takes."""
    found = row.get("image") if row.get("image") is not None else row.get("images")
    if found is None or found == "":
        return []
    return list(found) if isinstance(found, (list, tuple)) else [found]


def _has_image(message: Any) -> bool:
    content = message.get("content") if isinstance(message, Mapping) else None
    return isinstance(content, list) and any(map(_is_image, content))


def _is_image(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in _PARTS


def _source(part: Mapping[str, Any]) -> Any:
    value = next((part[name] for name in _SOURCES if part.get(name) is not None), None)
    if isinstance(value, Mapping) and "url" in value:
        return value["url"]
    return value
