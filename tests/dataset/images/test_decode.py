"""Images from files: the pixels of each kind of file, and the size from the header."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from xtuner.dataset.images import decode
from xtuner.dataset.images.decode import MAX_PIXELS, convert_image, decode_image, image_size, read_image
from xtuner.errors import DataError, NotFoundError

WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)
FORMATS = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]


def file_of(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width, height, mode="RGB", seed=0):
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    return Image.fromarray(values, mode)


def pixels(image):
    assert image.mode == "RGB"
    return np.asarray(image).tolist()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_every_mode_becomes_rgb(mode):
    """Grey, palettes and 16 bits are colours after."""
    assert decode_image(file_of(Image.new(mode, (3, 2))), "x").getcolors() == [(6, BLACK)]


@pytest.mark.parametrize("kind", FORMATS)
def test_formats(kind):
    """These formats are read; others are not, for some run programs."""
    image = decode_image(file_of(Image.new("RGB", (8, 8), WHITE), kind), "x")
    assert (image.mode, image.size) == ("RGB", (8, 8))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_opaque_pixels_are_those_of_convert(mode):
    """Without transparency, the pixels are those of Pillow's `convert("RGB")`, as the original trains on."""
    image = noise(7, 5, mode)
    if mode == "RGBA":
        image.putalpha(255)
    assert pixels(decode_image(file_of(image), "x")) == pixels(image.convert("RGB"))


def test_transparent_pixels_are_on_white():
    """Colours under transparent pixels are undefined; black lines on nothing stay lines."""
    clear, half, black = (9, 9, 9, 0), (0, 0, 0, 128), (0, 0, 0, 255)
    image = Image.new("RGBA", (3, 1))
    image.putdata([clear, half, black])
    expected = [[list(WHITE), [127, 127, 127], list(BLACK)]]
    assert pixels(decode_image(file_of(image), "x")) == expected
    assert pixels(decode_image(file_of(image.convert("LA")), "x")) == expected
    assert pixels(convert_image(image, "x")) == expected


def test_a_transparent_colour_is_white():
    """One colour of a palette, of grey or of colours that a PNG or GIF names as transparent."""
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *BLACK])
    palette.putdata([0, 1])
    for kind in ("PNG", "GIF"):
        data = file_of(palette, kind, transparency=1)
        assert pixels(decode_image(data, "x")) == [[list(RED), list(WHITE)]]
    data = file_of(palette, transparency=bytes([255, 0]))
    assert pixels(decode_image(data, "x")) == [[list(RED), list(WHITE)]]
    grey = Image.new("L", (2, 1))
    grey.putdata([7, 8])
    assert pixels(decode_image(file_of(grey, transparency=7), "x")) == [[list(WHITE), [8, 8, 8]]]
    data = file_of(palette.convert("RGB"), transparency=BLACK)
    assert pixels(decode_image(data, "x")) == [[list(RED), list(WHITE)]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_high_byte(kind):
    """Pillow's own conversion makes all above 255 white."""
    values = np.array([[0, 255, 256, 0x1234, 0xFFFF]], dtype=np.uint16)
    grey = [[v >> 8] * 3 for v in values[0].tolist()]
    assert pixels(decode_image(file_of(Image.fromarray(values), kind), "x")) == [grey]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bits_a_pixel_are_refused(mode):
    """It is not known which value is white."""
    with pytest.raises(DataError, match="the image x has 32 bits a pixel"):
        decode_image(file_of(Image.new(mode, (2, 2)), "TIFF"), "x")


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_are_colours(kind):
    """CMYK, as printers use it, is converted as Pillow does."""
    data = file_of(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), kind)
    assert np.abs(np.asarray(decode_image(data, "x")).astype(int) - RED).max() <= 2


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_several(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, WHITE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = file_of(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert decode_image(data, "x").getcolors() == [(64, RED)]


def test_the_first_picture_of_a_stereo_camera():
    """MPO is several JPEGs in one."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in (WHITE, BLACK)]
    data = file_of(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert decode_image(data, "x").getcolors() == [(64, WHITE)]


def test_a_progressive_jpeg_has_the_same_pixels():
    image = noise(20, 10)
    plain = decode_image(file_of(image, "JPEG"), "x")
    assert pixels(decode_image(file_of(image, "JPEG", progressive=True), "x")) == pixels(plain)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_an_image_of_one_pixel(size):
    image = noise(*size)
    data = file_of(image)
    assert (pixels(decode_image(data, "x")), image_size(data, "x")) == (pixels(image), size)


# --- orientation -----------------------------------------------------------------------------------------


def turned(kind, orientation, image):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return file_of(image, kind, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_turned_as_the_camera_says(kind, orientation):
    """As Pillow's `exif_transpose` does; the size from the header is that of the turned image."""
    from PIL import ImageOps

    data = turned(kind, orientation, noise(6, 4))
    image = decode_image(data, "x")
    assert pixels(image) == pixels(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert image_size(data, "x") == image.size == ((6, 4) if orientation < 5 else (4, 6))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_the_size_of_a_turned_photograph(kind):
    data = turned(kind, 6, noise(6, 4))
    assert image_size(data, "x") == decode_image(data, "x").size == (4, 6)


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_an_orientation_behind_the_pixels_of_a_png():
    """PNG allows it there; the size from the header knows it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file_of(noise(6, 4))
    end = data.rindex(struct.pack(">I", 0) + b"IEND")
    data = data[:end] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + data[end:]
    assert image_size(data, "x") == decode_image(data, "x").size == (4, 6)


def test_the_size_of_a_png_is_read_without_its_pixels(monkeypatch):
    """A header whose pixels are missing is enough."""
    data = file_of(noise(6, 4))
    assert image_size(data[: data.index(b"IDAT") + 4], "x") == (6, 4)


def test_broken_exif_data_is_ignored():
    """The pixels can be read without it."""
    image = noise(6, 4)
    for kind in ("PNG", "JPEG"):
        data = file_of(image, kind, exif=b"Exif\0\0not a header of TIFF")
        assert image_size(data, "x") == decode_image(data, "x").size == (6, 4)


# --- faults ----------------------------------------------------------------------------------------------


def test_other_formats_are_refused():
    with pytest.raises(DataError, match=r"x is not an image: PNG, JPEG"):
        decode_image(file_of(Image.new("RGB", (8, 8)), "EPS"), "x")
    with pytest.raises(DataError, match=r"x is not an image: PNG, JPEG"):
        decode_image(b"", "x")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_is_cut_off_or_changed_is_one_line(kind):
    """At any byte: an image or a DataError of one line with the name, and no warning."""
    data = file_of(noise(12, 8), kind)
    for at in range(0, len(data), 7):
        for faulty in (data[:at], data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]):
            errors = {error_of(decode_image, faulty), error_of(image_size, faulty)} - {None}
            assert all("x" in error.split()[:4] and "\n" not in error for error in errors)


def error_of(read, data):
    try:
        read(data, "x")
    except DataError as error:
        return str(error)
    return None


def test_a_jpeg_without_its_end_is_damaged():
    data = file_of(noise(64, 64), "JPEG")
    with pytest.raises(DataError, match="the image x is damaged or cut off"):
        decode_image(data[: len(data) // 2], "x")


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(NotFoundError, match="There is no image "):
        read_image(tmp_path / "no.png")


# --- the bound on pixels ---------------------------------------------------------------------------------


def png_header(width, height):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(8_000, 8_000), (12_000, 12_000), (30_000, 30_000), (50_001, 1_000)])
@pytest.mark.parametrize("read", [decode_image, image_size])
def test_a_bomb_is_not_unpacked(read, size):
    """A small file with an image that is huge is refused by its header."""
    with pytest.raises(DataError, match=rf"x is too large.* {MAX_PIXELS:,}"):
        read(png_header(*size), "x")


def test_large_jpegs_are_read_at_half_their_size(monkeypatch):
    """Their decoder can; the size from the header is the same. Progressive ones need all of their memory."""
    monkeypatch.setattr(decode, "MAX_PIXELS", 1000)
    data = file_of(noise(50, 41), "JPEG")
    assert image_size(data, "x") == decode_image(data, "x").size == (25, 21)
    for faulty in (file_of(noise(50, 41), "JPEG", progressive=True), file_of(noise(90, 50), "JPEG")):
        with pytest.raises(DataError, match="x is too large: "):
            decode_image(faulty, "x")
