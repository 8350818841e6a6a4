"""The texts of images in a conversation: those of the processor, also where it numbers them."""

import numpy as np
import pytest
from PIL import Image
from transformers import MiniCPMV4_6ImageProcessorPil

from tests import vision
from tests.llava import picture_file
from xtuner.dataset import VisionLanguageDataset
from xtuner.dataset.images.processed import Numbers, ProcessedImages
from xtuner.errors import DataError
from xtuner.image_processor import load_processor

SIZES = [(64, 48), (48, 100), (120, 60)] * 4


@pytest.fixture
def processor(tmp_path, tokenizer):
    return load_processor(vision.save("minicpmv4_6", tmp_path, tokenizer))


@pytest.mark.parametrize("numbers", [Numbers("<image_id>", 0), None])
def test_texts_are_those_of_a_whole_conversation(numbers, processor):
    """Of twelve images, so that a number has two digits; an image processor may turn numbers off."""
    processor.default_use_image_id = numbers is not None
    images = ProcessedImages(processor)
    shown = [Image.new("RGB", size) for size in SIZES]
    wanted = processor(images=[shown], text=[processor.image_token * len(SIZES)])["input_ids"][0]
    texts = images.texts(SIZES)
    assert images.numbers == numbers
    assert processor.tokenizer("".join(texts), add_special_tokens=False)["input_ids"] == list(wanted)
    assert texts[10].startswith("<image_id>10</image_id>") == (numbers is not None)
    assert images.texts(SIZES[:1]) == texts[:1]


def test_other_differences_between_images_are_an_error(processor, monkeypatch):
    """Nothing is guessed about a processor that counts with letters."""

    def with_letters(self, text, replacements, token):
        return [f"<image_id>{letter}</image_id>{r}" for letter, r in zip("abc", replacements, strict=False)]

    monkeypatch.setattr(type(processor), "_prepend_local_ids", with_letters)
    images = ProcessedImages(processor)
    assert images.texts(SIZES[:1])[0].startswith("<image_id>a</image_id>")
    with pytest.raises(DataError, match="in ways that are not known: '<image_id>a</image_id>"):
        images.texts(SIZES[:2])


class ByBrightness(MiniCPMV4_6ImageProcessorPil):
    """It enlarges dark images, as that of MiniCPM-OCR does with small letters."""

    small_image_upsize = "adaptive"

    def _preprocess(self, images, scale_resolution, **settings):
        scale = 112 if np.mean(images[0]) < 128 else 56
        return super()._preprocess(images, scale_resolution=scale, **settings)


def test_texts_that_depend_on_pixels(processor, tmp_path):
    """Two images of one size have the tokens that the processor gives each, and none is left out."""
    processor.image_processor = ByBrightness(slice_mode=False)
    for name, grey in (("dark.png", 9), ("bright.png", 240)):
        picture_file(tmp_path / name, (grey,) * 3, (64, 64))
    rows = [{"question": "?", "answer": "a", "image": name} for name in ("dark.png", "bright.png")]
    data = VisionLanguageDataset(rows, processor, image_folder=str(tmp_path), pack_to_max_length=False)
    counts = [int((item["input_ids"] == processor.image_token_id).sum()) for item in data]
    assert counts == [4, 1]
    assert all("image_inputs" in item for item in data)
