"""MLflow's own client finds what was written."""

import json
from pathlib import Path

import pytest

from tests.engine.trackers.lives import SAMPLES, STEPS, Killed, train, two_lives

mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: make trackers")

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def client(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return mlflow.MlflowClient()


def runs(client):
    return client.search_runs([client.get_experiment_by_name("xtuner").experiment_id])


def test_a_resumed_run_is_one_run_with_each_step_once(toy_config, tmp_path, client):
    two_lives(toy_config, tmp_path / "w", "mlflow", **{"visualizer.run_name": "mine"})
    (run,) = runs(client)
    assert (run.info.run_name, run.info.status) == ("mine", "FINISHED")
    assert [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")] == STEPS
    assert run.data.params["lr"] == "0.01"
    assert run.data.params["run.seed"] == "3"
    folder = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
    assert json.loads((folder / "samples.json").read_text())["data"] == SAMPLES
    assert (folder / "config.py").read_text().startswith("\nfrom engine_toys")


def test_a_killed_run_is_shown_as_killed(toy_config, tmp_path, client):
    train(toy_config(**{"visualizer.trackers": "mlflow"}), tmp_path / "w", Killed())
    assert [run.info.status for run in runs(client)] == ["KILLED"]
