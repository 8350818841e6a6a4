"""The files of SwanLab's offline mode hold the run."""

import pytest
import yaml

from tests.engine.trackers.lives import SAMPLES, STEPS, two_lives

pytest.importorskip("swanlab", reason="swanlab is not installed: make trackers")

from swanlab.proto.swanlab.record.v1.record_pb2 import Record

from tests.engine.trackers.framed import records

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SWANLAB_API_KEY", raising=False)


def read(folder, *kinds):
    (file,) = folder.glob("*.swanlab")
    found = [Record.FromString(record) for record in records(file)]
    return [getattr(record, kind) for record in found for kind in kinds if record.HasField(kind)]


def test_a_resumed_run_has_the_same_id_and_each_step_once(toy_config, tmp_path):
    two_lives(toy_config, tmp_path, "swanlab", **{"visualizer.run_name": "mine"})
    folders = sorted((tmp_path / "swanlab").glob("run-*"))
    starts = [start for folder in folders for start in read(folder, "start")]
    assert len({start.id for start in starts}) == 1
    assert [(start.project, start.name) for start in starts] == [("xtuner", "mine")] * 2
    values = [value for folder in folders for value in read(folder, "scalar", "media")]
    assert [value.step for value in values if value.key == "train/loss"] == STEPS
    tables = [value for value in values if value.key == "samples"]
    assert [table.step for table in tables] == [step for step, _, _ in SAMPLES]
    config = yaml.safe_load((folders[0] / "files" / "config.yaml").read_text())
    assert config["lr"]["value"] == 1e-2
    assert "answer 9" in "".join(p.read_text() for p in folders[1].glob("media/echarts/*.json"))
