"""What all trackers do alike: errors are counted, names are checked, one process writes."""

import sys

import pytest

from tests.engine.trackers.lives import train
from xtuner.check.checks import check_config
from xtuner.config import trackers
from xtuner.engine.trackers.tracker import Guarded, Sample, Tracker
from xtuner.errors import ConfigError


class Fails(Tracker):
    name = "fails"

    def begin(self, run, run_id):
        return "nowhere"

    def write(self, scalars, step):
        raise OSError("401: key 0123456789abcdef is wrong\nmore")

    def write_samples(self, samples):
        raise ValueError

    def end(self, error):
        raise OSError("no network")


def test_a_tracker_that_fails_is_one_line_and_a_count(toy_config, tmp_path, caplog, monkeypatch):
    """The training goes on, and no credential is in the log."""
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    config = toy_config(visualizer={"vis_backends": [{"type": "engine_toys.Fails"}]})
    monkeypatch.setattr(sys.modules["engine_toys"], "Fails", Fails, raising=False)
    run = train(config, tmp_path)
    assert run.iter == 20
    warnings = [r.getMessage() for r in caplog.records if r.name == "xtuner" and r.levelname == "WARNING"]
    assert warnings == [
        "fails failed, and the training goes on: OSError: 401: key *** is wrong",
        "fails: 21 of 25 calls failed",
    ]


def test_a_tracker_that_cannot_begin_is_left_out(tmp_path, caplog):
    class Closed(Fails):
        def begin(self, run, run_id):
            raise ConnectionError("no server")

        def write(self, scalars, step):
            raise AssertionError("it was never open")

    guarded = Guarded(Closed())
    guarded.open(tmp_path, "20260101_000000", "")
    guarded.add_scalars({"loss": 1.0}, 1)
    guarded.close()
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
        "fails failed, and the training goes on: ConnectionError: no server",
        "fails is left out of this run",
    ]


def test_samples_of_one_moment_are_written_together():
    written = []

    class Table(Fails):
        def write_samples(self, samples):
            written.append(samples)

        def write(self, scalars, step):
            written.append(scalars)

        def end(self, error):
            pass

    table = Table()
    table.add_text("sample/a", "1", 9)
    table.add_text("sample/b", "2", 9)
    table.add_scalars({"loss": 1.0}, 10)
    table.add_text("sample/a", "3", 19)
    table.close()
    assert written == [
        [Sample(9, "a", "1"), Sample(9, "b", "2")],
        {"train/loss": 1.0},
        [Sample(19, "a", "3")],
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["wandb", "swanlb"], "there is no tracker 'swanlb'. Did you mean 'swanlab'?"),
        ("tensorbord", "there is no tracker 'tensorbord'. Did you mean 'tensorboard'?"),
        (3, "visualizer.trackers is 3; it must be a list of names of: tensorboard, wandb"),
    ],
)
def test_a_wrong_name_is_a_finding_of_check(toy_config, given, message):
    config = toy_config(**{"visualizer.trackers": given})
    assert [f.message for f in check_config(config).errors if message in f.message]


def test_a_tracker_that_is_not_installed_is_an_error_with_its_command(monkeypatch):
    known = trackers.Known("x.SomeTracker", "nothing_of_the_kind", "nothing>=1")
    monkeypatch.setitem(trackers.TRACKERS, "some", known)
    with pytest.raises(
        ConfigError, match=r"SomeTracker needs the package nothing.*: .+ -m pip install 'nothing"
    ):
        trackers.check_installed(["some"])


def test_names_may_be_repeated_or_separated_by_commas():
    assert trackers.tracker_names(["wandb,SwanLab", "mlflow", "wandb"]) == ["wandb", "swanlab", "mlflow"]


def test_only_the_first_process_writes(toy_config, tmp_path):
    """The others open nothing, and their ids are none."""
    from xtuner.engine.build import build_run
    from xtuner.engine.run import RunOptions

    run = build_run(toy_config(**{"visualizer.trackers": "tensorboard"}), RunOptions(work_dir=str(tmp_path)))
    run.world.rank = 1
    run.train()
    assert not (tmp_path / "tensorboard").exists()
    assert run.visualizer.ids() == {}
