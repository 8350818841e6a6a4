"""What a training has left in its work dir."""

import json

from xtuner.work_dir import read_curves


def start(work_dir, name, rows, end=""):
    folder = work_dir / name / "vis_data"
    folder.mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in rows) + end
    (folder / "scalars.json").write_text(text, encoding="utf-8")


def test_a_resumed_training_has_one_curve(tmp_path):
    """What was done again counts once, as the later start did it; a half-written line is left out."""
    losses = [{"step": s, "loss": s / 10} for s in (10, 20, 30)]
    start(tmp_path, "20261121_092003", [{"step": 0, "val/loss": 9.0}, *losses], '{"step": 40, "lo')
    start(tmp_path, "20261121_101500", [{"step": 20, "loss": 2.5}, {"step": 25, "val/loss": 1.0}])
    start(tmp_path, "20261121_111500", [])
    assert read_curves(tmp_path) == {"val/loss": [(0, 9.0), (25, 1.0)], "loss": [(10, 1.0), (20, 2.5)]}


def test_a_folder_without_a_training_has_no_curves(tmp_path):
    assert read_curves(tmp_path) == {}
    assert read_curves(tmp_path / "none") == {}
