"""The files of wandb's offline mode hold the run."""

import json
import warnings

import pytest

from tests.engine.trackers.framed import records
from tests.engine.trackers.lives import SAMPLES, STEPS, two_lives

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import wandb  # noqa: F401
    from wandb.proto.wandb_internal_pb2 import Record

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    monkeypatch.setenv("WANDB_X_DISABLE_STATS", "true")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


def read(run):
    (file,) = (run.log_dir / "vis_data" / "wandb").glob("offline-run-*/run-*.wandb")
    found = [Record.FromString(record) for record in records(file)]
    (facts,) = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    rows = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.WhichOneof("record_type") == "history"
    ]
    return facts, rows


def test_a_resumed_run_has_the_same_id_and_each_step_once(toy_config, tmp_path):
    lives = two_lives(toy_config, tmp_path, "wandb", **{"visualizer.run_name": "mine"})
    (first, rows), (second, more) = map(read, lives)
    assert (second.run_id, second.display_name, second.project) == (first.run_id, "mine", "xtuner")
    losses = [(row["_step"], row["train/loss"]) for row in (*rows, *more) if "train/loss" in row]
    assert [step for step, _ in losses] == STEPS
    config = {item.key: json.loads(item.value_json) for item in first.config.update}
    assert config["lr"] == 1e-2
    assert config["optim_wrapper.optimizer.type"] == "torch.optim.AdamW"
    tables = [row["samples/nrows"] for row in (*rows, *more) if "samples/nrows" in row]
    assert tables == [1, 1, 2]
    files = sorted((lives[1].log_dir / "vis_data" / "wandb").glob("offline-run-*/files/media/table/*.json"))
    assert sorted(json.loads(file.read_text())["data"] for file in files)[-1] == SAMPLES[1:]
