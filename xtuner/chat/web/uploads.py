"""An image attached to a question, ready to send: valid, of a known type, small enough for a request.

bytes of a file  ->  Upload: bytes, media type, size, and whether it was made smaller
                 ->  {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

from xtuner.dataset.images.decode import decode_image

MAX_BYTES = 4 * 2**20  # servers limit requests, and each turn sends the image again
MAX_SIDE = 2048


@dataclass(frozen=True)
class Upload:
    """The file of an image, its width and height, and whether it was made smaller."""

    data: bytes
    media_type: str
    size: tuple[int, int]
    is_smaller: bool = False

    def part(self) -> dict[str, Any]:
        """The image as a part of a message."""
        url = f"data:{self.media_type};base64,{base64.b64encode(self.data).decode()}"
        return {"type": "image_url", "image_url": {"url": url}}


def make_upload(data: bytes, media_type: str, name: str) -> Upload:
    """The image in `data`; DataError if it cannot be read."""
    image = decode_image(data, name)
    if len(data) <= MAX_BYTES:
        return Upload(data, media_type, image.size)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return Upload(file.getvalue(), "image/jpeg", image.size, is_smaller=True)
