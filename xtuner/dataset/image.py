"""Images from files and from bytes, and the square that CLIP wants.

cat.png, b"\\x89PNG..."   ->   an RGB image, turned as its camera says
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
"""More are refused before they are unpacked: a small file can hold an image that fills the memory."""
MAX_SIDE = 10_000
"""An image is made square before it is made smaller."""
MAX_RATIO = 200
"""Where the shorter side is brought to the size of an encoder, the longer one grows with it."""
# Others are rare, and some of them run programs to be read.
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
    """The image that `data` holds as a file would; `name` is what errors call it."""
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
    except Exception as error:  # each format has errors of its own
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
    """`image` in the middle of the smallest square that holds it, on `colour`."""
    from PIL import Image

    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new(image.mode, (side, side), colour)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square
