"""RGB images from the content of files, and the size of an image from its header alone.

    cat.png, b"\\x89PNG..."    ->   an RGB image, rotated by its EXIF orientation
    transparent               ->   on white; an opaque image has the pixels of `convert("RGB")`
    16-bit grey               ->   the high byte of each pixel, as Pillow reads 16-bit colours
    animated                  ->   the first frame

The original and transformers drop the transparency, which shows the undefined colours under it: black
drawings on a transparent ground become all black.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from xtuner.errors import DataError, NotFoundError
from xtuner.language import translate
from xtuner.log import say_once

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 50_000_000
"""Larger images are refused before decoding: a small file can hold an image that fills the memory."""
# Others are rare, and Pillow runs external programs to read some of them.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")

_ORIENTATION = 0x0112  # the tag of EXIF
_WHITE = (255, 255, 255)
_PNG_TEXTS = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # chunks that may hold an orientation


def read_image(path: str | Path) -> Image:
    """The image in the file `path`."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise NotFoundError(translate("There is no image {path}", path=path))
    return decode_image(read_file(path), str(path))


def read_file(path: str | Path) -> bytes:
    """The content of an image file; DataError if it is missing or cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: str | Path, error: OSError, cure: str = "") -> DataError:
    """The error for a file that cannot be opened, with the cure if it is missing."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return DataError(translate("There is no image {path}", path=path) + cure)
    return DataError(
        translate("the image {path} cannot be read: {error}", path=path, error=error.strerror or error)
    )


def decode_image(data: bytes, name: str) -> Image:
    """The RGB image in `data`, the content of an image file; DataError, which names it `name`."""
    with _one_error(name):
        return _to_rgb(_open(io.BytesIO(data), name), name)


def convert_image(image: Image, name: str) -> Image:
    """An image of Pillow as `decode_image` returns one; it may not be loaded yet."""
    with _one_error(name):
        _check_size(image, name)
        return _to_rgb(image, name)


def image_size(file: BinaryIO | bytes, name: str) -> tuple[int, int]:
    """Width and height of the image that `decode_image` would return, from the header of the file."""
    file = io.BytesIO(file) if isinstance(file, bytes) else file
    with _one_error(name):
        image = _open(file, name)
        width, height = image.size
        # The TIFF reader of Pillow rotates by itself.
        is_turned = image.format != "TIFF" and _orientation(image, file) >= 5
        return (height, width) if is_turned else (width, height)


def _open(file: BinaryIO, name: str) -> Image:
    """The image, not yet decoded; at half its size if it is a large JPEG, whose decoder can do that."""
    from PIL import Image

    image = Image.open(file, formats=FORMATS)
    width, height = image.size
    is_jpeg = image.format in ("JPEG", "MPO") and not image.info.get("progressive")
    if MAX_PIXELS < width * height <= 4 * MAX_PIXELS and is_jpeg:
        say_once("JPEG images of more than {pixels:,} pixels are read at half their size", pixels=MAX_PIXELS)
        image.draft(None, (width // 2, height // 2))
    _check_size(image, name)
    return image


def _check_size(image: Image, name: str) -> None:
    width, height = image.size
    if 0 < width * height <= MAX_PIXELS:
        return
    raise DataError(
        translate(
            "{name} is too large: {width} x {height} pixels; at most {MAX_PIXELS:,} are allowed",
            name=name,
            width=width,
            height=height,
            MAX_PIXELS=MAX_PIXELS,
        )
        if width * height
        else translate("the image {name} has no pixels", name=name)
    )


def _to_rgb(image: Image, name: str) -> Image:
    from PIL import Image as Pillow

    image.load()
    methods = Pillow.Transpose
    turns = {
        2: methods.FLIP_LEFT_RIGHT,
        3: methods.ROTATE_180,
        4: methods.FLIP_TOP_BOTTOM,
        5: methods.TRANSPOSE,
        6: methods.ROTATE_270,
        7: methods.TRANSVERSE,
        8: methods.ROTATE_90,
    }
    orientation = _orientation(image)
    image = _to_8_bits(image, name)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = _on_white(image.convert("RGBA"))
    elif image.mode != "RGB":
        image = image.convert("RGB")
    return image.transpose(turns[orientation]) if orientation in turns else image


def _to_8_bits(image: Image, name: str) -> Image:
    from PIL import Image as Pillow

    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    if image.mode in ("I", "F") and image.format != "PNG":
        raise DataError(
            translate(
                "the image {name} has 32 bits a pixel, which say not what is white: save it with 8 or 16",
                name=name,
            )
        )
    import numpy as np

    values = np.asarray(image)
    # Older versions of Pillow hold the 16 bits of a PNG in 32.
    return Pillow.fromarray((values >> 8).astype(np.uint8))


def _on_white(image: Image) -> Image:
    from PIL import Image as Pillow

    extrema: Any = image.getextrema()
    if extrema[3] == (255, 255):
        return image.convert("RGB")
    ground = Pillow.new("RGB", image.size, _WHITE)
    ground.paste(image, (0, 0), image)
    return ground


def _orientation(image: Image, file: BinaryIO | None = None) -> int:
    """The orientation in the EXIF data or XMP, 1 to 8; 1 if there is none or it is broken.

    With `file`, that of an image that is not decoded.
    """
    from PIL import Image

    try:
        if file is not None and image.format == "PNG" and not _has_text_after_pixels(file):
            # The method of PNG images decodes the image to find what follows the pixels.
            exif: Any = Image.Image.getexif(image)
        else:
            exif = image.getexif()
        orientation = exif.get(_ORIENTATION, 1)
    except Exception:  # pixels can be read without EXIF data
        return 1
    return orientation if orientation in range(1, 9) else 1


def _has_text_after_pixels(file: BinaryIO) -> bool:
    """Whether chunks that may hold an orientation follow the pixels of a PNG file; its position is kept."""
    position = file.tell()
    try:
        file.seek(8)
        has_pixels = False
        while len(head := file.read(8)) == 8:
            kind = head[4:]
            if has_pixels and kind in _PNG_TEXTS:
                return True
            has_pixels |= kind == b"IDAT"
            file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
        return False
    finally:
        file.seek(position)


@contextlib.contextmanager
def _one_error(name: str) -> Iterator[None]:
    """Raise DataError of one line for all errors of Pillow."""
    from PIL import Image

    try:
        yield
    except DataError:
        raise
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
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            translate("the image {name} is damaged or cut off: {error}", name=name, error=reason)
        ) from error
