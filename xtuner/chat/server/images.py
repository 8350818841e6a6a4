"""Images in requests: parts of a user's message, with their bytes in the request itself.

{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBOR..."}}   ->   a Picture
"""

from __future__ import annotations

import base64
import binascii
import urllib.parse

from xtuner.dataset.images.decode import decode_image
from xtuner.errors import DataError
from xtuner.generation.pictures import Picture, Pictures

MAX_IMAGES = 16  # in one request: small files can hold large images


def picture_of(url: str, where: str, pictures: Pictures, adapter: str | None) -> Picture:
    """The picture in the data URL `url` of the field `where`; DataError if it is not an image."""
    scheme, _, rest = url.strip().partition(":")
    if scheme.lower() != "data":
        raise DataError(
            f"{where}: this server fetches nothing from {scheme[:20] or 'elsewhere'}: send the image itself, "
            "as data:image/png;base64,..."
        )
    head, comma, body = rest.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise DataError(f"{where}: the image must be in base64: data:image/png;base64,...")
    try:
        data = base64.b64decode(urllib.parse.unquote(body), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{where}: this is not base64: {error}") from error
    return pictures.add(decode_image(data, where), adapter)
