"""`<video>` in rows of LLaVADataset: a video trains as its frames do, each an image."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from tests.llava import LENGTH, picture_file
from tests.video import save_clip
from xtuner.dataset import LLaVADataset
from xtuner.dataset.images.source import ImageSource
from xtuner.dataset.map_fns import llava_map_fn, template_map_fn_factory
from xtuner.errors import ConfigError, DataError
from xtuner.survey.survey import counts_of

ANSWER = {"from": "gpt", "value": "It gets brighter."}
VIDEO = {"video": "clips/a.mp4", "conversations": [{"from": "human", "value": "<video>\nWhat?"}, ANSWER]}
TEXT = {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]}


@pytest.fixture
def folder(tmp_path):
    """Two videos, an image, and three frames of each video as images of their own."""
    (tmp_path / "clips").mkdir()
    source = ImageSource(tmp_path)
    for name, first in (("a", 20), ("b", 40)):
        save_clip(tmp_path / "clips" / f"{name}.mp4", first)
        for number in (1, 2, 3):
            source.image(f"clips/{name}.mp4#frame={number}/3").save(tmp_path / f"{name}{number}.png")
    picture_file(tmp_path / "1.png")
    return tmp_path


@pytest.fixture
def make(folder, llava, tokenizer):
    """Function of rows: their data set."""

    def call(rows, name="data", **changes):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = {
            "image_folder": str(folder),
            "image_processor": {"pretrained_model_name_or_path": str(llava.clip)},
            "data_path": str(file),
            "tokenizer": tokenizer,
            "dataset_map_fn": llava_map_fn,
            "template_map_fn": template_map_fn_factory("vicuna"),
            "max_length": 128,
            "video_frames": 3,
        }
        return LLaVADataset(**{**settings, **changes})

    return call


def talk(words):
    return [{"from": "human", "value": words}, ANSWER]


@pytest.mark.parametrize(
    ("row", "images", "words"),
    [
        (VIDEO, ["a1.png", "a2.png", "a3.png"], "<image><image><image>\nWhat?"),
        (
            {"videos": ["clips/a.mp4", "clips/b.mp4"], "conversations": talk("<video>Before. <video>After.")},
            ["a1.png", "a2.png", "a3.png", "b1.png", "b2.png", "b3.png"],
            "<image><image><image>Before. <image><image><image>After.",
        ),
        (
            {"video": "clips/a.mp4", "image": "1.png", "conversations": talk("<image><video>\nIs it there?")},
            ["1.png", "a1.png", "a2.png", "a3.png"],
            "<image><image><image><image>\nIs it there?",
        ),
        (
            {"video": "clips/a.mp4", "image": "1.png", "conversations": talk("<video><image>\nIs it there?")},
            ["a1.png", "a2.png", "a3.png", "1.png"],
            "<image><image><image><image>\nIs it there?",
        ),
    ],
    ids=["one", "two", "image first", "video first"],
)
def test_a_video_trains_as_its_frames_do(row, images, words, make):
    """Ids, labels and pixels are those of a row with the frames as images, and lengths, known before."""
    video, frames = (
        make([row, TEXT]),
        make([{"images": images, "conversations": talk(words)}, TEXT], "frames"),
    )
    one, other = video[0], frames[0]
    assert one["input_ids"].tolist() == other["input_ids"].tolist()
    assert one["labels"].tolist() == other["labels"].tolist()
    assert one["pixel_values"].shape == (len(images), 3, 56, 56)
    assert torch.equal(one["pixel_values"], other["pixel_values"])
    assert (one["input_ids"] == -200).sum() == len(images) * LENGTH
    assert video.length.tolist() == [len(one["input_ids"]), len(video[1]["input_ids"])]
    assert counts_of(video).tokens == video.length.sum()
    assert video.sample_lengths.tolist() == video.length.tolist()
    assert video.modality_length.tolist() == frames.modality_length.tolist()
    assert "pixel_values" not in video[1]


def test_rows_in_conversation_form(make):
    """Without a map function."""
    rows = [{"video": "clips/a.mp4", "conversation": [{"input": "<video>What?", "output": "It is."}]}]
    item = make(rows, dataset_map_fn=None)[0]
    assert (item["input_ids"] == -200).sum() == 3 * LENGTH


def test_packs_count_all_frames(make):
    """A pack has no more tokens than it may."""
    alone = int(make([VIDEO] * 4).length[0])
    data = make([VIDEO] * 4, max_packed_length=2 * alone)
    assert [len(data[n]["pixel_values"]) for n in range(len(data))] == [6, 6]
    assert data.length.tolist() == [2 * alone, 2 * alone]
    with pytest.raises(DataError, match=f"a conversation has {alone} tokens with its images"):
        make([VIDEO] * 4, max_packed_length=alone - 1)


def test_videos_that_are_missing_or_broken_are_left_out_and_named(make, folder, caplog):
    """A few are counted; many are an error; one that is damaged during training has no loss."""
    (folder / "broken.mp4").write_bytes((folder / "clips" / "a.mp4").read_bytes()[:600])
    (folder / "text.mp4").write_text("no video")
    bad = [{**VIDEO, "video": name} for name in ("gone.mp4", "broken.mp4", "text.mp4")]
    rows = [VIDEO] * 60
    data = make([*rows, *bad])
    assert len(data) == 60
    assert "3 rows are left out because of images: " in caplog.text
    assert (counts_of(data).samples, counts_of(data).trained) == (60, 60 * (data[0]["labels"] >= 0).sum())
    for line, message in ((61, "There is no image"), (62, "the video "), (63, "the video ")):
        assert f"data.jsonl line {line}: {message}" in caplog.text
    assert caplog.text.count("cannot be read: ") == 2
    with pytest.raises(DataError, match=r"more\.jsonl line 2: There is no image .*gone\.mp4"):
        make([VIDEO, *bad], "more")
    (folder / "clips" / "a.mp4").write_text("no video")
    item = data[0]
    assert (item["labels"] == -100).all()
    assert np.count_nonzero(item["pixel_values"]) == 0
    assert "data.jsonl line 1: the video " in caplog.text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**VIDEO, "conversations": talk("<video><video>")}, "the text has 2 <video>, and the row 1 video"),
        ({**VIDEO, "conversations": talk("<video><image>")}, "the text has 1 <image>, and the row 0 images"),
        ({**VIDEO, "image": "1.png", "conversations": talk("What?")}, "the row has images and videos: write"),
        ({**VIDEO, "video": 3}, "3 is no video: give the path of a file"),
    ],
)
def test_rows_that_cannot_be_meant_are_faults(row, message, make):
    with pytest.raises(DataError, match=f"data.jsonl line 1: {message}"):
        make([row])


def test_a_video_that_no_placeholder_asks_for_is_counted(make, caplog):
    """As an image is."""
    assert len(make([{**VIDEO, "conversations": talk("What?")}])[0]["cumulative_len"]) == 2
    assert "1 row has more images than <image> in the text, or a cut before one" in caplog.text


def test_the_tag_in_a_row_without_a_video_is_text(make, tokenizer):
    """It may be HTML."""
    item = make([{"conversations": talk("What is <video>?")}])[0]
    assert "What is <video>?" in tokenizer.decode(item["input_ids"])


def test_settings_that_cannot_work(make, monkeypatch):
    with pytest.raises(ConfigError, match="video_frames is 0: write 1 or more"):
        make([VIDEO], video_frames=0)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match="videos are read by PyAV, which is not installed"):
        make([TEXT] * 60 + [VIDEO])


def test_the_frames_of_the_data_set(make):
    """As stored image features ask for them."""
    assert list(make([VIDEO, TEXT]).images()) == [f"clips/a.mp4#frame={n}/3" for n in (1, 2, 3)]
