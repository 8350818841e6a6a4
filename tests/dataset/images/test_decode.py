"""Images from files: what is read, and how it is turned."""

import io

import pytest
from PIL import Image

from xtuner.dataset.images.decode import MAX_PIXELS, decode_image
from xtuner.errors import DataError


def file_of(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
def test_every_mode_becomes_rgb(mode):
    """Grey, palettes, transparency and 16 bits are colours after."""
    assert decode_image(file_of(Image.new(mode, (3, 2)), "PNG"), "x").getcolors() == [(6, (0, 0, 0))]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_formats(kind):
    """These formats are read; others are not, for some run programs."""
    image = decode_image(file_of(Image.new("RGB", (8, 8), (255, 255, 255)), kind), "x")
    assert (image.mode, image.size) == ("RGB", (8, 8))


def test_other_formats_are_refused():
    with pytest.raises(DataError, match=r"x is not an image: PNG, JPEG"):
        decode_image(file_of(Image.new("RGB", (8, 8)), "EPS"), "x")


def test_turned_as_the_camera_says():
    """A photograph that was taken upright stands upright."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    data = file_of(Image.new("RGB", (6, 4)), "JPEG", exif=exif)
    assert decode_image(data, "x").size == (4, 6)


@pytest.mark.parametrize(
    ("width", "height"),
    [
        (8_000, 8_000),
        (12_000, 12_000),
        (30_000, 30_000),
        (50_000, 1_000),
        (1_000, 50_000),
        (20_000, 500),
        (7_000, 30),
    ],
)
def test_a_bomb_is_not_unpacked(width, height):
    """A small file with an image that is huge, would be as a square or enlarged is refused by its head."""
    import struct
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(DataError, match=rf"x is too large.* {MAX_PIXELS:,}"):
        decode_image(data, "x")
