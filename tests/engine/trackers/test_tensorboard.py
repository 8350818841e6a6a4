"""TensorBoard's own reader finds what was written."""

import warnings

import pytest

from tests.engine.trackers.lives import SAMPLES, STEPS, train, two_lives

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return events


def test_a_resumed_run_is_one_folder_with_each_step_once(toy_config, tmp_path):
    two_lives(toy_config, tmp_path, "tensorboard")
    (folder,) = (tmp_path / "tensorboard").iterdir()
    events = read(folder)
    assert [e.step for e in events.Scalars("train/loss")] == STEPS
    texts = [
        (e.step, e.tensor_proto.string_val[0].decode()) for e in events.Tensors("sample/hi?/text_summary")
    ]
    assert texts == [(step, text) for step, _, text in SAMPLES]


def test_settings_are_hyperparameters_of_the_run_itself(toy_config, tmp_path):
    train(toy_config(**{"visualizer.trackers": "tensorboard", "visualizer.run_name": "a/b"}), tmp_path)
    (folder,) = (tmp_path / "tensorboard").iterdir()
    assert folder.name == "a_b"
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    metadata = read(folder).SummaryMetadata("_hparams_/session_start_info")
    found = HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info.hparams
    assert found["lr"].number_value == pytest.approx(1e-2)
    assert found["run.seed"].number_value == 3


def test_a_new_run_of_the_same_name_has_a_folder_of_its_own(toy_config, tmp_path):
    config = {"visualizer.trackers": "tensorboard", "visualizer.run_name": "a"}
    train(toy_config(**config), tmp_path)
    train(toy_config(**config), tmp_path)
    assert sorted(p.name for p in (tmp_path / "tensorboard").iterdir()) == ["a", "a-2"]
