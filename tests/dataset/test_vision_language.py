"""Conversations about images through a processor: formats of rows, cuts, and missing images."""

from __future__ import annotations

import numpy as np
import pytest

from tests import vision
from xtuner.dataset import VisionLanguageDataset
from xtuner.errors import DataError

PAD = "<|image_pad|>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    return vision.save("qwen2_5_vl", tmp_path_factory.mktemp("qwen"), tokenizer)


@pytest.fixture
def images(tmp_path):
    vision.picture_files(tmp_path)
    return tmp_path


def dataset(folder, images, rows, **changes):
    settings = {"image_folder": str(images), "pack_to_max_length": False}
    processor = {"pretrained_model_name_or_path": str(folder)}
    return VisionLanguageDataset(rows, processor, **{**settings, **changes})


def asked(data, number=0):
    """The text of an item, with one placeholder for each image."""
    text = data._images.processor.tokenizer.decode(data[number]["input_ids"])
    while PAD * 2 in text:
        text = text.replace(PAD * 2, PAD)
    return text.replace(f"<|vision_start|>{PAD}<|vision_end|>", "IMAGE")


ANSWER = {"role": "assistant", "content": "a block"}
SHOWN = "<|im_start|>user\nIMAGEWhat?<|im_end|>\n<|im_start|>assistant\na block<|im_end|>\n"


def openai(part):
    content = [part, {"type": "text", "text": "What?"}]
    return {"messages": [{"role": "user", "content": content}, ANSWER]}


@pytest.mark.parametrize(
    "row",
    [
        openai({"type": "image_url", "image_url": {"url": "a.png"}}),
        openai({"type": "image_url", "image_url": "a.png"}),
        openai({"type": "image", "image": "a.png"}),
        {**openai({"type": "image"}), "images": ["a.png"]},
        {"messages": [{"role": "user", "content": "<image>What?"}, ANSWER], "images": ["a.png"]},
        {
            "conversations": [
                {"from": "human", "value": "<image>\nWhat?"},
                {"from": "gpt", "value": "a block"},
            ],
            "image": "a.png",
        },
        {"question": "What?", "answer": "a block", "image": "a.png"},
    ],
)
def test_rows_of_all_formats_are_one_conversation(row, folder, images):
    """Parts of messages, placeholders in texts, and columns of images."""
    data = dataset(folder, images, [row])
    assert asked(data) == SHOWN
    assert len(data[0]["image_inputs"]) == 1


def test_columns_of_datasets_are_images(folder, images):
    """They are read as bytes, of one image or a list of them."""
    datasets = pytest.importorskip("datasets")
    rows = {"question": ["What?"], "answer": ["a block"], "image": [str(images / "a.png")]}
    rows = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    assert asked(dataset(folder, images, rows)) == SHOWN


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (openai({"type": "image"}), "a message has an image part without an image"),
        (
            {**openai({"type": "image", "image": "a.png"}), "images": ["b.jpg"]},
            "the row has 1 image, and its messages have parts for 1",
        ),
        (
            {"messages": [{"role": "user", "content": f"{PAD}What?"}, ANSWER]},
            r"the chat template writes 1 placeholder .*, and the conversation has 0 images",
        ),
        (
            openai({"type": "image", "image": "none.png"}),
            r"There is no image /.*/none\.png: the row names none\.png, and image_folder is /",
        ),
        (
            openai({"type": "image", "image": "/no/none.png"}),
            r"There is no image /no/none\.png$",
        ),
    ],
)
def test_rows_whose_images_do_not_fit_are_faults(row, message, folder, images):
    """The row says so itself."""
    with pytest.raises(DataError, match=message):
        dataset(folder, images, [row])


def test_images_are_never_cut(folder, images, caplog):
    """A conversation that would be cut within an image is left out; one cut behind it stays."""
    long = {"question": "What?", "answer": "a block " * 40, "image": "a.png"}
    second = {
        "messages": [
            *openai({"type": "image", "image": "a.png"})["messages"],
            *openai({"type": "image", "image": "b.jpg"})["messages"],
        ]
    }
    whole = dataset(folder, images, [second])
    ids = whole[0]["input_ids"]
    pads = np.flatnonzero(ids == whole._images.token_id)
    cut = dataset(folder, images, [second, long], max_length=int(pads[-1]))
    assert len(cut) == 1
    assert "1 conversation is left out, because max_length" in caplog.text
    assert len(cut[0]["image_inputs"]) == 1
    between = dataset(folder, images, [second], max_length=int(pads[-1]) - int((np.diff(pads) == 1).sum()))
    assert len(between[0]["image_inputs"][0]["image_grid_thw"]) == 1


def test_a_broken_image_has_no_loss(folder, images, caplog):
    """Its conversation stays, without image and labels; later images are found if they come."""
    row = {"question": "What?", "answer": "a block", "image": "a.png"}
    data = dataset(folder, images, [row])
    content = (images / "a.png").read_bytes()
    (images / "a.png").write_bytes(content[:200])
    item = data[0]
    assert "image_inputs" not in item
    assert (item["labels"] == -100).all()
    assert (item["input_ids"] != data._images.token_id).all()
    assert "its conversation is not trained" in caplog.text
    vision.picture_file(images / "a.png", size=(160, 48))
    assert "they changed since they were tokenised" in (data[0] and caplog.text)
    assert len(dataset(folder, images, [row])[0]["input_ids"]) == len(item["input_ids"]) - 2
