"""`xtuner new-cfg` for a vision-language model: data with images is trained with images."""

import json

import numpy as np
import pytest

from tests import vision
from xtuner import cli
from xtuner.check.checks import check_config
from xtuner.config import Builder, load_config
from xtuner.config.ref import path_of
from xtuner.dataset import VisionLanguageDataset

TALK = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "a block"}]
ROWS = [{"image": name, "conversations": TALK} for name in ("a.png", "b.jpg", "c.png")]
TEXTS = [{"instruction": "who are you", "output": "a small model"}] * 3


@pytest.fixture
def here(tmp_path, tokenizer, monkeypatch):
    vision.save("qwen2_5_vl", tmp_path / "model", tokenizer)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def proposed(data):
    words = ["--model", "model", "--data", data, "--method", "lora", "--out", "my.py"]
    assert cli.main(["new-cfg", *words]) == 0
    config = load_config("my.py")
    assert check_config(config).errors == []
    return config


@pytest.mark.parametrize("folder", ["data", "data/images"])
def test_data_with_images(folder, here, capsys):
    """They are found beside the file or in `images`; lengths count their tokens."""
    (here / folder).mkdir(parents=True)
    vision.picture_files(here / folder)
    (here / "data" / "rows.json").write_text(json.dumps(ROWS))
    config = proposed("data/rows.json")
    assert path_of(config.model["type"]) == "xtuner.model.VisionLanguageFinetune"
    dataset = config.train_dataloader["dataset"]
    assert path_of(dataset.pop("type")) == "xtuner.dataset.VisionLanguageDataset"
    assert dataset == {
        "dataset": "data/rows.json",
        "processor": {"pretrained_model_name_or_path": "model"},
        "image_folder": folder,
        "max_length": 256,
        "pack_to_max_length": True,
    }
    printed = capsys.readouterr().out
    assert "3 images in the 3 rows looked at" in printed
    data = Builder().build(dict(config.train_dataloader["dataset"], type=VisionLanguageDataset), "dataset")
    longest = int(np.diff(data[0]["cumulative_len"]).max())
    assert f"have at most {longest} tokens" in printed


def test_data_without_images_is_text(here):
    """The language part of the model is trained on it, as that of any other model."""
    (here / "rows.json").write_text(json.dumps(TEXTS))
    config = proposed("rows.json")
    assert path_of(config.model["type"]) == "xtuner.model.SupervisedFinetune"
    assert path_of(config.train_dataloader["dataset"]["type"]) == "xtuner.dataset.process_hf_dataset"


def test_images_that_are_nowhere_are_an_error(here, capsys):
    """The message says where they were looked for."""
    (here / "rows.json").write_text(json.dumps(ROWS))
    assert cli.main(["new-cfg", "--model", "model", "--data", "rows.json", "--out", "my.py"]) == 1
    assert "there is no image 'a.png' in ., in images or in the working folder" in capsys.readouterr().err
