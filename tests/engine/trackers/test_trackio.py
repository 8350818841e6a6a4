"""trackio's own store holds what was written."""

import pytest

from tests.engine.trackers.lives import SAMPLES, STEPS, two_lives

trackio = pytest.importorskip("trackio", reason="trackio is not installed: make trackers")

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_resumed_run_is_one_run_with_each_step_once(toy_config, tmp_path):
    from trackio.sqlite_storage import SQLiteStorage

    project = f"project_{tmp_path.name}"  # trackio reads TRACKIO_DIR when it is imported
    two_lives(
        toy_config, tmp_path, "trackio", **{"visualizer.run_name": "mine", "visualizer.project": project}
    )
    (name,) = {record["name"] for record in SQLiteStorage.get_run_records(project)}
    assert name == "mine"
    logs = SQLiteStorage.get_logs(project, name)
    assert [log["step"] for log in logs if "train/loss" in log] == STEPS
    tables = [log["samples"]["_value"] for log in logs if "samples" in log]
    assert [[list(row.values()) for row in table] for table in tables] == [
        SAMPLES[:1],
        SAMPLES[1:2],
        SAMPLES[1:],
    ]
    assert SQLiteStorage.get_run_config(project, name)["lr"] == 1e-2
