from __future__ import annotations

import io

import pytest
from rich.console import Console

from xtuner import cli
from xtuner.demo.base_model import Pretraining
from xtuner.demo.run import Demo, Options


@pytest.mark.slow
def test_a_model_made_from_nothing_learns_its_name(tmp_path, monkeypatch):
    """The demo's real path with a shorter pre-training: both answers carry the name, the base's do not."""
    monkeypatch.chdir(tmp_path)
    console = Console(file=io.StringIO(), width=120)
    options = Options(name="Ada", base=Pretraining(steps=120, num_layers=2), max_epochs=8)
    assert Demo(options, cli.main, console).run(), console.file.getvalue()
    for made in (
        "train/last_checkpoint",
        "adapter/adapter_model.safetensors",
        "merged/model.safetensors",
        "loss.png",
    ):
        assert (tmp_path / "work_dirs" / "demo" / made).exists(), made
