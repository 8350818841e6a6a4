"""InternVL's data: tiles, the form of turns, several files, and lengths that are true."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests import internvl
from tests.llava import picture_file
from tests.video import save_clip
from xtuner.dataset import InternVL_V1_5_Dataset
from xtuner.dataset.images.source import ImageSource
from xtuner.errors import ConfigError, DataError, ModelError
from xtuner.image_processor import load_processor
from xtuner.utils import PROMPT_TEMPLATE

ROWS_PER_TILE = (internvl.SIZE // internvl.PATCH) ** 2 // 4
SYSTEM = "You are an AI assistant whose name is InternLM (书生·浦语)."


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory, tokenizer):
    return internvl.save(tmp_path_factory.mktemp("internvl"), "internlm2", tokenizer)


def talk(question, answer, **columns):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {**columns, "conversations": turns}


def dataset(folder, model_dir, rows, **settings):
    (folder / "d.json").write_text(json.dumps(rows))
    given = {
        "data_paths": str(folder / "d.json"),
        "image_folders": str(folder),
        "max_length": 2048,
        **settings,
    }
    return InternVL_V1_5_Dataset(str(model_dir), PROMPT_TEMPLATE.internlm2_chat, **given)


def text_of(item, data):
    words = data.datasets[0]._images.tokenizer.decode(item["input_ids"])
    for number in range(13 * ROWS_PER_TILE, 0, -1):
        words = words.replace("<IMG_CONTEXT>" * number, f"({number})")
    return words


def tiles_by_definition(image, size, most):
    """The tiles of an image: the grid with the nearest ratio of width and height, and a thumbnail."""
    grids = sorted(
        {(a, b) for a in range(1, most + 1) for b in range(1, most + 1) if a * b <= most},
        key=lambda grid: grid[0] * grid[1],
    )
    ratio, area = image.width / image.height, image.width * image.height
    best, least = (1, 1), float("inf")
    for grid in grids:
        far = abs(ratio - grid[0] / grid[1])
        if far < least or (far == least and area > 0.5 * size * size * grid[0] * grid[1]):
            best, least = grid, far
    whole = image.resize((size * best[0], size * best[1]), Image.Resampling.BICUBIC)
    corners = [(column * size, row * size) for row in range(best[1]) for column in range(best[0])]
    tiles = [whole.crop((x, y, x + size, y + size)) for x, y in corners]
    if len(tiles) > 1:
        tiles.append(image.resize((size, size), Image.Resampling.BICUBIC))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = [((np.asarray(tile) / 255.0 - mean) / std).transpose(2, 0, 1) for tile in tiles]
    return torch.tensor(np.stack(pixels), dtype=torch.float32)


@pytest.mark.parametrize("size", [(80, 48), (20, 20), (300, 30), (48, 100), (200, 200), (57, 56), (600, 400)])
def test_tiles_are_those_of_the_definition(size, model_dir, tmp_path):
    """Their number is that of the tokens."""
    picture_file(tmp_path / "a.png", size=size)
    item = dataset(tmp_path, model_dir, [talk("<image>\nWhat?", "A", image="a.png")])[0]
    (inputs,) = item["image_inputs"]
    image = Image.open(tmp_path / "a.png").convert("RGB")
    wanted = tiles_by_definition(image, internvl.SIZE, 12)
    torch.testing.assert_close(inputs["pixel_values"], wanted, rtol=0, atol=1e-5)
    token = load_processor(model_dir).image_token_id
    assert (item["input_ids"] == token).sum() == len(wanted) * ROWS_PER_TILE


def test_turns_are_in_the_form_of_the_model(model_dir, tmp_path):
    """A system text, an image before its words, and no line break between turns; another template is kept."""
    picture_file(tmp_path / "a.png", size=(20, 20))
    row = {"image": "a.png", "conversations": [
        {"from": "human", "value": "What is it?\n<image>"}, {"from": "gpt", "value": "A block."},
        {"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "Yes."}]}  # fmt: skip
    own = {"conversations": [{"from": "system", "value": "Be kind."}, *row["conversations"][2:]]}
    data = dataset(tmp_path, model_dir, [row, own])
    head = f"<s><|im_start|>system\n{SYSTEM}<|im_end|><|im_start|>user\n"
    answers = "<|im_end|><|im_start|>assistant\n"
    assert text_of(data[0], data) == (
        f"{head}What is it?<img>(4)</img>{answers}A block.<|im_end|>"
        f"<|im_start|>user\nSure?{answers}Yes.<|im_end|>"
    )
    assert text_of(data[1], data).startswith(
        "<s><|im_start|>system\nBe kind.<|im_end|><|im_start|>user\nSure?"
    )
    labels = data[0]["labels"]
    supervised = data.datasets[0]._images.tokenizer.decode(labels[labels >= 0])
    assert supervised == "A block.<|im_end|>Yes.<|im_end|>"
    bare = dataset(tmp_path, model_dir, [own, row], system="")
    assert text_of(bare[1], bare).startswith("<s><|im_start|>user\nWhat")
    (tmp_path / "e.json").write_text(json.dumps([own]))
    other = InternVL_V1_5_Dataset(str(model_dir), PROMPT_TEMPLATE.vicuna, str(tmp_path / "e.json"))
    assert "USER: Sure? ASSISTANT:" in text_of(other[0], other)


def test_several_files_each_with_a_folder_and_how_often(model_dir, tmp_path):
    """A fraction takes that part of the rows; lengths are those of the items, negative without an image."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        picture_file(tmp_path / name / "a.png", size=(20, 20) if name == "one" else (60, 20))
        rows = [
            talk("<image>\nWhat?", "A", image="a.png"),
            *(talk(f"Say {n}", "word " * n) for n in range(1, 4)),
        ]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    settings = {
        "data_paths": [str(tmp_path / "one.json"), str(tmp_path / "two.json")],
        "image_folders": [str(tmp_path / "one"), str(tmp_path / "two")],
    }
    data = dataset(tmp_path, model_dir, [], **settings, repeat_times=[2.5, 0.5])
    assert len(data) == 10 + 2
    counts = np.bincount([data.source_rows(n)[0] for n in range(10)])
    assert sorted(counts.tolist()) == [2, 2, 3, 3]
    lengths = [len(item["input_ids"]) for item in data]
    assert np.abs(data.modality_length).tolist() == data.length.tolist() == lengths
    assert ((data.modality_length > 0) == ["image_inputs" in item for item in data]).all()
    once = dataset(tmp_path, model_dir, [], **settings)
    shapes = [item["image_inputs"][0]["pixel_values"].shape[0] for item in once if "image_inputs" in item]
    assert (len(once), shapes) == (8, [1, 4])
    with pytest.raises(ConfigError, match="image_folders has 1 value, and data_paths 2"):
        dataset(tmp_path, model_dir, [], **{**settings, "image_folders": [str(tmp_path)]})


def test_a_conversation_that_would_be_cut_in_an_image_is_left_out(model_dir, tmp_path, caplog):
    """A text is cut; both are counted."""
    picture_file(tmp_path / "a.png")
    rows = [talk("<image>\nWhat?", "A", image="a.png"), talk("Hello", "word " * 100)]
    data = dataset(tmp_path, model_dir, rows, max_length=96)
    assert [len(item["input_ids"]) for item in data] == [96]
    assert "image_inputs" not in data[0]


def test_images_that_the_processor_would_cut_otherwise_are_refused(tmp_path, tokenizer):
    folder = internvl.save(tmp_path, "llama", tokenizer, use_thumbnail=False)
    with pytest.raises(ModelError, match=r"use_thumbnail = False in its config.json is not supported"):
        load_processor(folder)
    whole = internvl.save(tmp_path, "llama", tokenizer, dynamic_image_size=False)
    picture_file(tmp_path / "a.png")
    item = dataset(tmp_path, whole, [talk("<image>\nWhat?", "A", image="a.png")])[0]
    assert item["image_inputs"][0]["pixel_values"].shape == (1, 3, internvl.SIZE, internvl.SIZE)


def test_an_image_in_an_answer_cannot_be_written(model_dir, tmp_path):
    picture_file(tmp_path / "a.png")
    rows = [talk("What?", "<image>", image="a.png"), talk("a", "b")]
    with pytest.raises(DataError, match="an answer has an image"):
        dataset(tmp_path, model_dir, rows)


def test_a_video_is_its_frames(tmp_path, model_dir):
    """Each in the place of `<video>`, with the tokens of an image."""
    save_clip(tmp_path / "a.mp4")
    source = ImageSource(tmp_path)
    for number in (1, 2):
        source.image(f"a.mp4#frame={number}/2").save(tmp_path / f"{number}.png")
    rows = [
        talk("<video>\nWhat?", "It gets brighter.", video="a.mp4"),
        talk("<image><image>\nWhat?", "It gets brighter.", image=["1.png", "2.png"]),
    ]
    data = dataset(tmp_path, model_dir, rows, video_frames=2)
    one, other = data[0], data[1]
    assert one["input_ids"].tolist() == other["input_ids"].tolist()
    assert one["labels"].tolist() == other["labels"].tolist()
    shown = [item["image_inputs"][0]["pixel_values"] for item in (one, other)]
    assert torch.equal(*shown)
