"""Images in the text of a conversation: a mark, a placeholder, and the text of an image's tokens.

message    IMAGE_MARK "What is it?"                               the content as text
parts      [{"type": "image"}, {"type": "text", "text": ...}]     as chat templates take it
rendered   <|vision_start|><|image_pad|><|vision_end|>What is it?
expanded   <|vision_start|><|image_pad|><|image_pad|>...          as the family's processor writes it
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from xtuner.dataset.map_fns.images import IMAGE_MARK
from xtuner.errors import DataError
from xtuner.language import translate

_MARKS = re.compile(f"({IMAGE_MARK})")
Span = tuple[int, int]


def content_parts(words: str) -> list[dict[str, Any]]:
    """The text as a content list, with a part for each mark of an image."""
    found = [part for part in _MARKS.split(words) if part]
    return [
        {"type": "image"} if part == IMAGE_MARK else {"type": "text", "text": part} for part in found
    ] or [{"type": "text", "text": ""}]


def expand_images(
    text: str, spans: Sequence[Span], token: str, image_texts: Sequence[str]
) -> tuple[str, list[Span]]:
    """`text` with `image_texts` instead of the placeholders `token`, and the moved spans, without images.

    DataError if there are more or fewer placeholders than images.
    """
    starts = [match.start() for match in re.finditer(re.escape(token), text)]
    if len(starts) != len(image_texts):
        raise DataError(
            translate(
                "the chat template writes {count} placeholders {token}, and the conversation has {images} "
                "images",
                count=len(starts),
                token=token,
                images=len(image_texts),
            )
        )
    pieces, moved, images = [], [], []
    here = length = 0
    for start, words in zip(starts, image_texts, strict=True):
        pieces += [text[here:start], words]
        length += start - here + len(words)
        here = start + len(token)
        images.append((length - len(words), length))
        moved.append((here, length - here))
    pieces.append(text[here:])
    if not starts:
        return text, list(spans)

    def shifted(position: int) -> int:
        return position + next((by for end, by in reversed(moved) if end <= position), 0)

    return "".join(pieces), [
        part for start, end in spans for part in _without(shifted(start), shifted(end), images)
    ]


def _without(start: int, end: int, images: Sequence[Span]) -> list[Span]:
    """The span without the images in it."""
    parts = []
    for first, last in images:
        if start <= first and last <= end:
            parts.append((start, first))
            start = last
    return [(a, b) for a, b in [*parts, (start, end)] if a < b]
