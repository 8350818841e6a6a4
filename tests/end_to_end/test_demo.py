from __future__ import annotations

import io

import pytest
from rich.console import Console

from xtuner import cli
from xtuner.demo.base_model import Pretraining
from xtuner.demo.image_encoder import EncoderPlan
from xtuner.demo.preference import WANTED_ACCURACY, PreferenceDemo
from xtuner.demo.run import Demo, Options
from xtuner.demo.vision import Sizes, VisionDemo

BASE = Pretraining(steps=120, num_layers=2, tokens_per_step=512)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the demos are run: the later ones find the base model of the first."""
    return tmp_path_factory.mktemp("demo")


@pytest.mark.slow
def test_a_model_made_from_nothing_learns_its_name(folder, monkeypatch):
    """The demo's real path with a shorter pre-training: both answers carry the name, the base's do not."""
    monkeypatch.chdir(folder)
    console = Console(file=io.StringIO(), width=120)
    options = Options(name="Ada", base=BASE, max_epochs=8)
    assert Demo(options, cli.main, console).run(), console.file.getvalue()
    for made in (
        "train/last_checkpoint",
        "adapter/adapter_model.safetensors",
        "merged/model.safetensors",
        "loss.svg",
    ):
        assert (folder / "work_dirs" / "demo" / made).exists(), made


@pytest.mark.slow
def test_it_learns_to_be_polite(folder, monkeypatch):
    """The real path of the demo of preferences: the polite answers of held-out pairs win."""
    monkeypatch.chdir(folder)
    console = Console(file=io.StringIO(), width=120)
    demo = PreferenceDemo(Options(base=BASE, max_epochs=1), cli.main, console)
    demo.run()
    assert demo.found()["accuracy"] > WANTED_ACCURACY
    assert "xtuner new-cfg --method dpo_lora" in console.file.getvalue()
    for made in ("dpo/last_checkpoint", "polite/model.safetensors", "dpo_loss.svg"):
        assert (folder / "work_dirs" / "demo" / made).exists(), made


@pytest.mark.slow
def test_it_learns_to_see(folder, monkeypatch):
    """The real path of the demo of vision, too short for shapes: it names the colour of unseen figures."""
    monkeypatch.chdir(folder)
    console = Console(file=io.StringIO(), width=120)
    plan = EncoderPlan(num_pictures=960, steps=60)
    sizes = Sizes(pretrain=160, finetune=640, held_out=12)
    demo = VisionDemo(Options(base=BASE), cli.main, console, sizes=sizes, encoder_plan=plan)
    demo.run()
    before, after = demo.accuracies["before"], demo.accuracies["after"]
    assert before["colour"] < 0.5 < 0.75 <= after["colour"]
    assert "xtuner convert pth_to_hf" in console.file.getvalue()
    for made in ("pretrain/last_checkpoint", "finetune_loss.svg", "llava/model.safetensors", "page.html"):
        assert (folder / "work_dirs" / "demo" / made).exists(), made
