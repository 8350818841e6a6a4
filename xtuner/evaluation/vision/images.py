"""The image of a row, in each form that benchmarks use.

"iVBORw0KGgo..."            base64, also with data:image/png;base64, before it
"coco/000000098304.jpg"     a file below the image folder
"41"                        the image of the row with that index: MMBench stores each image once
{"bytes": b"...", ...}      as Parquet files hold images
an image of PIL             as `datasets` returns them
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtuner.dataset.images.decode import convert_image, decode_image, read_image
from xtuner.errors import DataError, NotFoundError
from xtuner.language import translate

if TYPE_CHECKING:
    from PIL.Image import Image

FIELDS = ("image", "image_path", "filename", "image_file", "image_id", "img_id")
"""The fields that may hold the image of a row, the first that is filled in counts."""
COCO = "coco/train2017"
"""The folder of COCO's images, below that of all images."""
_REFERENCE_LENGTH = 16  # a shorter number is an index, as in the 0.1.x series
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_PATH_LENGTH = 500


def image_value(row: Mapping[str, Any]) -> Any:
    """The value of the field that holds the image of `row`, or None if it has no image."""
    for field in FIELDS:
        value = row.get(field)
        if value not in (None, "") and value != []:
            if field == "img_id":  # COCO_train2014_000000581857_16: the third part is the image
                return f"{str(value).split('_')[-2]}.jpg" if "_" in str(value) else f"{value}.jpg"
            return f"{value}.jpg" if field == "image_id" and _is_bare(value) else value
    return None


def _is_bare(value: Any) -> bool:
    return isinstance(value, (str, int)) and not str(value).lower().endswith(_SUFFIXES)


def is_reference(value: Any) -> bool:
    """Whether `value` is the index of the row that has the image."""
    if isinstance(value, str):
        return len(value) < _REFERENCE_LENGTH and value.strip().isdigit()
    return isinstance(value, int)


def image_key(value: Any) -> str:
    """A hash by which questions about the same image are found; "" without an image."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path") or ""
    content = value if isinstance(value, bytes) else None
    if content is None:
        content = value.encode() if isinstance(value, str) else value.tobytes()
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def open_image(value: Any, place: str, folders: Sequence[Path]) -> Image:
    """The image that `value` holds or names; DataError, which names `place`, if it cannot be read."""
    from PIL import Image

    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and _is_path(value):
        path = _find(value, folders)
        if not path.is_file():
            what = "There is no image {path}, which {place} names: give its folder by --image-folder"
            raise NotFoundError(translate(what, place=place, path=path))
        return read_image(path)
    if isinstance(value, str):
        value = _from_base64(value, place)
    if isinstance(value, bytes):
        return decode_image(value, place)
    if isinstance(value, Image.Image):
        return convert_image(value, place)
    what = "{place}: the image is a {kind}, which cannot be read"
    raise DataError(translate(what, place=place, kind=type(value).__name__))


def _from_base64(value: str, place: str) -> bytes:
    text = value.rpartition(";base64,")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        what = "{place}: the image is neither base64 nor the name of a file: {value:.40}"
        raise DataError(translate(what, place=place, value=value)) from None


def _is_path(value: str) -> bool:
    return len(value) < _PATH_LENGTH and value.lower().endswith(_SUFFIXES)


def _find(name: str, folders: Sequence[Path]) -> Path:
    """The file `name` in one of `folders`, or of that name in it or its COCO folder; else the first try."""
    own = Path(name).name
    tries = [folder / part for folder in folders for part in (name, own, f"{COCO}/{own}")]
    return next((path for path in tries if path.is_file()), tries[0])
