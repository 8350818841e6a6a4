"""Scalars are in the files of the real libraries."""

import json
import time
import warnings

import pytest

from xtuner.engine import visual
from xtuner.engine.trackers.tracker import need
from xtuner.errors import ConfigError


def record(visualizer, tmp_path):
    visualizer.open(tmp_path, "20260101_000000", "lr = 1\n")
    visualizer.add_scalars({"loss": 2.5, "lr": 0.1}, 7)
    visualizer.add_text("sample/hello", "world", 7)
    visualizer.close()


def test_local_files(tmp_path):
    record(visual.Visualizer(), tmp_path)
    folder = tmp_path / "vis_data"
    assert (folder / "config.py").read_text() == "lr = 1\n"
    for name in ("scalars.json", "20260101_000000.json"):
        assert json.loads((folder / name).read_text()) == {"loss": 2.5, "lr": 0.1, "step": 7}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_them_back(tmp_path):
    record(visual.Visualizer([visual.TensorboardVisBackend()]), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(tmp_path / "vis_data"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(7, 2.5)]
    assert (tmp_path / "vis_data" / "scalars.json").exists()


def test_wandb_offline_writes_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    init = {"project": "x", "mode": "offline", "settings": {"console": "off"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        record(visual.Visualizer([visual.WandbVisBackend(init_kwargs=init)]), tmp_path)
    (run,) = (tmp_path / "vis_data" / "wandb").glob("offline-run-*/run-*.wandb")
    # wandb's own process writes on after `finish` has returned.
    deadline = time.monotonic() + 30
    while b"loss" not in run.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert b"loss" in run.read_bytes()


def test_a_missing_library_is_an_error_with_the_package():
    with pytest.raises(ConfigError, match=r"XBackend needs the package nothing: .+ -m pip install nothing"):
        need("nothing_of_the_kind", "XBackend", "nothing")
