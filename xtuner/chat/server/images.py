"""Images in requests: parts of a user's message, with their bytes in the request itself.

{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBOR..."}}   ->   a Picture
"""

from __future__ import annotations

from xtuner.dataset.images.decode import decode_image
from xtuner.dataset.images.source import data_of_url
from xtuner.errors import DataError
from xtuner.generation.pictures import Picture, Pictures

MAX_IMAGES = 16  # in one request: small files can hold large images


def picture_of(url: str, where: str, pictures: Pictures, adapter: str | None) -> Picture:
    """The picture in the data URL `url` of the field `where`; DataError if it is not an image."""
    scheme = url.strip().partition(":")[0]
    if scheme.lower() != "data":
        raise DataError(
            f"{where}: this server fetches nothing from {scheme[:20] or 'elsewhere'}: send the image itself, "
            "as data:image/png;base64,..."
        )
    return pictures.add(decode_image(data_of_url(url, where), where), adapter)
