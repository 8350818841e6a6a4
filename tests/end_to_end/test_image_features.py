"""Stored features of a frozen image encoder: the same training to the bit, without the encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.llava import picture_file, save_llava
from xtuner.engine.checkpoints.files import load_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

RECIPES = {
    "stage 1": "llava_vicuna_7b_v15_clip_vit_large_p14_336_e1_gpu8_pretrain",
    "stage 2": "llava_v15_7b_finetune",
}
STORED = "\nmodel['image_features'] = dict(folder='features')\ncustom_hooks = []\n"


@pytest.fixture
def here(tmp_path, llama_dir, tokenizer, monkeypatch):
    """Two models, eight images, two of which are shown twice, and a row of text."""
    dirs = save_llava(tmp_path, llama_dir, tokenizer)
    rows = []
    for number in range(10):
        name = f"{number % 8}.png"
        if number < 8:
            picture_file(tmp_path / name, (20 * number, 60, 200), (48 + 8 * number, 64))
        talk = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "red"}]
        rows.append({"image": name, "conversations": talk})
    rows.append({"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]})
    (tmp_path / "d.json").write_text(json.dumps(rows))
    monkeypatch.chdir(tmp_path)
    return dirs


@pytest.fixture
def train(here, run):
    """Train a recipe: the log, the losses, and the weights."""

    def call(stage, work_dir, more="", **changes):
        options = {
            "llm_name_or_path": here.llm,
            "visual_encoder_name_or_path": here.clip,
            "data_path": "d.json",
            "image_folder": ".",
            "max_length": 128,
            "batch_size": 2,
            "accumulative_counts": 1,
            "dataloader_num_workers": 0,
            "max_epochs": 2,
            "evaluation_images": "1.png",
            "lr": 1e-3,
            **({"pretrained_pth": "None"} if stage == "stage 2" else {}),
            **changes,
        }
        run("copy-cfg", RECIPES[stage], ".")
        text = Path(f"{RECIPES[stage]}_copy.py").read_text()
        Path("my.py").write_text(
            f"{text}\ncustom_hooks = []\ndefault_hooks['logger']['interval'] = 1\n{more}"
        )
        words = [f"{name}={value}" for name, value in options.items()]
        log = run(
            "train", "my.py", "--work-dir", work_dir, "--seed", 1, "--cfg-options", *words, with_log=True
        )
        lines = next(Path(work_dir).rglob("scalars.json")).read_text().splitlines()
        losses = [json.loads(line)["loss"] for line in lines if "loss" in line]
        return log, losses, load_checkpoint(max(Path(work_dir).glob("iter_*.pth")))["state_dict"]

    return call


def entries():
    return [path for path in Path("features").rglob("*") if path.is_file()]


def assert_same(found, expected):
    assert len(found[1]) == 12
    assert found[1] == expected[1]
    assert found[2].keys() == expected[2].keys()
    assert all(torch.equal(found[2][name], expected[2][name]) for name in found[2])


@pytest.mark.parametrize("stage", RECIPES)
@pytest.mark.parametrize("workers", [0, 2])
def test_training_is_the_same_to_the_bit(stage, workers, train, monkeypatch):
    """The log says what is stored; a second run decodes no image."""
    plain = train(stage, "plain")
    first = train(stage, "first", STORED, dataloader_num_workers=workers)
    assert "8 images x 16 rows x 32 x " in first[0]
    assert "0 are stored, 8 are computed" in first[0]
    assert len(entries()) == 8
    assert_same(first, plain)

    def refused(*_):
        raise AssertionError("an image is decoded")

    monkeypatch.setattr("xtuner.dataset.images.source.decode_image", refused)
    again = train(stage, "again", STORED, dataloader_num_workers=workers)
    assert "8 are stored, 0 are computed" in again[0]
    assert_same(again, plain)


def test_damaged_and_missing_features(train):
    """Missing ones are computed by the next run, damaged ones by the encoder when they are read."""
    plain = train("stage 1", "plain")
    train("stage 1", "first", STORED)
    gone, damaged = entries()[:2]
    gone.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-3])
    again = train("stage 1", "again", STORED)
    assert "7 are stored, 1 are computed" in again[0]
    assert "its stored features are missing or damaged: the encoder runs again" in again[0]
    assert_same(again, plain)


def test_features_of_another_encoder(here, train):
    """Other weights have other features."""
    train("stage 1", "first", STORED)
    weights = here.clip / "model.safetensors"
    from safetensors.torch import load_file, save_file

    changed = {name: tensor * 1.01 for name, tensor in load_file(weights).items()}
    save_file(changed, weights, {"format": "pt"})
    assert "0 are stored, 8 are computed" in train("stage 1", "again", STORED)[0]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("dict(folder='features', max_gb=1e-5)", "set max_gb to 0.00"),
        ("dict(path='features')", "write dict(folder=..., max_gb=100)"),
    ],
)
def test_settings_that_cannot_work(setting, message, train, capsys):
    with pytest.raises(AssertionError, match=message.replace("(", r"\(").replace(")", r"\)")):
        train("stage 1", "first", f"model['image_features'] = {setting}\n")


@pytest.mark.parametrize(
    "trained",
    [
        "model['freeze_visual_encoder'] = False",
        "from peft import LoraConfig\nmodel['visual_encoder_lora'] = dict(type=LoraConfig, r=4)",
    ],
)
def test_a_trained_encoder_is_refused(trained, train):
    """Its features change with each update."""
    with pytest.raises(AssertionError, match="the encoder is trained"):
        train("stage 1", "first", f"{STORED}{trained}\n")
