"""Images before a processor: padded to a square, and never of too many pixels."""

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil

from xtuner.dataset.images import shape
from xtuner.dataset.images.shape import bounded_for, expand_to_square
from xtuner.errors import DataError

MEAN = (122, 116, 104)


def drawn(width, height):
    """An image with gradients and an edge."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, (x > 127) * 200.0], -1).astype(np.uint8))


def clip(size=56, **options):
    return CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, **options
    )


def pixels(processor, image):
    return processor(images=image, return_tensors="np", do_normalize=False)["pixel_values"][0]


@pytest.mark.parametrize("size", [(7, 4), (4, 7), (5, 5), (1, 2), (1, 1)])
def test_padding_is_that_of_the_original(size):
    """`expand2square`: the image is pasted in the middle, rounded down, of a square of the mean colour."""
    image = drawn(*size)
    square = expand_to_square(image, MEAN)
    side = max(size)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    expected = np.full((side, side, 3), MEAN, dtype=np.uint8)
    expected[top : top + size[1], left : left + size[0]] = np.asarray(image)
    assert np.asarray(square).tolist() == expected.tolist()


@pytest.mark.parametrize("size", [(1500, 40), (40, 1500), (1, 1500), (1500, 1000)])
def test_a_long_image_is_shrunk_before_it_is_padded(size, monkeypatch):
    """The encoder sees nearly the same image; only the memory differs."""
    image = drawn(*size)
    whole = expand_to_square(image, MEAN)
    monkeypatch.setattr(shape, "MAX_PIXELS", 1500 * 1500 - 1)
    monkeypatch.setattr(shape, "SHRUNK_SIDE", 1000)
    small = expand_to_square(image, MEAN)
    assert (whole.size, small.size) == ((1500, 1500), (1000, 1000))
    difference = np.abs(pixels(clip(), small) - pixels(clip(), whole))
    assert difference.mean() < 0.002
    assert difference.max() < 0.1


@pytest.mark.parametrize("size", [(3000, 10), (10, 3000), (3001, 10), (10, 2999)])
def test_the_middle_of_a_long_image_is_enough_if_the_processor_crops(size, monkeypatch):
    """It gives the encoder what the whole image gives."""
    image = drawn(*size)
    whole = pixels(clip(), image)
    monkeypatch.setattr(shape, "MAX_PIXELS", 56 * 56 * 50)
    middle = bounded_for(image, clip(), "x")
    assert sorted(middle.size)[1] <= 501
    assert np.abs(pixels(clip(), middle) - whole).max() < 0.02


def test_an_image_that_becomes_too_large_is_refused_if_the_processor_does_not_crop(monkeypatch):
    monkeypatch.setattr(shape, "MAX_PIXELS", 56 * 56 * 50)
    with pytest.raises(DataError, match=r"x is too long: 3000 x 10 pixels become more than 156,800, "):
        bounded_for(drawn(3000, 10), clip(do_center_crop=False), "x")


@pytest.mark.parametrize(
    "processor",
    [
        clip(),
        clip(do_resize=False),
        CLIPImageProcessorPil(size={"height": 56, "width": 56}),
        clip(size=56, do_center_crop=False),
    ],
)
def test_other_images_are_left_as_they_are(processor):
    image = drawn(300, 10)
    assert bounded_for(image, processor, "x") is image


def test_sizes_with_a_longest_edge_are_bounded_by_it(monkeypatch):
    """Qwen2-VL calls the fewest and most pixels so."""
    from transformers import Qwen2VLImageProcessorPil

    monkeypatch.setattr(shape, "MAX_PIXELS", 100)
    image = drawn(300, 10)
    assert bounded_for(image, Qwen2VLImageProcessorPil(), "x") is image
