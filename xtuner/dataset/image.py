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
        raise NotFoundError(f"There is no image {path}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"the image {path} cannot be read: {error.strerror or error}") from error
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
        raise DataError(f"{name} is too large: images may have {MAX_PIXELS:,} pixels") from error
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{name} is no image: {', '.join(FORMATS)} can be read") from error
    except Exception as error:  # each format has errors of its own
        raise DataError(f"the image {name} is damaged or cut off: {error}") from error
    raise DataError(
        f"{name} is too large: {width} x {height} pixels; {MAX_PIXELS:,} are allowed, {MAX_SIDE:,} a side, "
        f"and one side {MAX_RATIO} times the other"
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
