"""Images from files and bytes, and the padding to a square for CLIP.

cat.png, b"\\x89PNG..."   ->   an RGB image, rotated by its EXIF orientation
┌──────┐                    ┌──────┐
│ wide │                    │ mean │
└──────┘               ->   │ wide │
                            │ mean │
                            └──────┘
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from xtuner.errors import DataError, NotFoundError
from xtuner.language import translate

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 50_000_000
"""Larger images are refused before decoding: a small file can hold an image that fills the memory."""
MAX_SIDE = 10_000
"""An image is padded to a square before it is resized."""
MAX_RATIO = 200
"""If the shorter side is resized to the size of an encoder, the longer one grows with it."""
# Others are rare, and Pillow runs external programs to read some of them.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def read_image(path: str | Path) -> Image:
    """The image in the file `path`."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise NotFoundError(translate("There is no image {path}", path=path))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            translate("the image {path} cannot be read: {error}", path=path, error=error.strerror or error)
        ) from error
    return decode_image(data, str(path))


def decode_image(data: bytes, name: str) -> Image:
    """The image in `data`, the content of an image file; errors name it `name`."""
    from PIL import Image, ImageOps

    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        short, long = sorted(image.size)
        if width * height <= MAX_PIXELS and long <= MAX_SIDE and long <= MAX_RATIO * short:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            translate(
                "{name} is too large: images may have {MAX_PIXELS:,} pixels", name=name, MAX_PIXELS=MAX_PIXELS
            )
        ) from error
    except Image.UnidentifiedImageError as error:
        raise DataError(
            translate("{name} is not an image: {formats} can be read", name=name, formats=", ".join(FORMATS))
        ) from error
    except Exception as error:  # each format raises different errors
        raise DataError(
            translate("the image {name} is damaged or cut off: {error}", name=name, error=error)
        ) from error
    raise DataError(
        translate(
            "{name} is too large: {width} x {height} pixels; at most {MAX_PIXELS:,} are allowed, "
            "{MAX_SIDE:,} on a side, and sides of at most 1 to {MAX_RATIO}",
            name=name,
            width=width,
            height=height,
            MAX_PIXELS=MAX_PIXELS,
            MAX_SIDE=MAX_SIDE,
            MAX_RATIO=MAX_RATIO,
        )
    )


def expand_to_square(image: Image, colour: tuple[int, ...]) -> Image:
    """`image` centred on the smallest square that holds it, filled with `colour`."""
    from PIL import Image

    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new(image.mode, (side, side), colour)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square
