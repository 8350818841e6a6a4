"""`xtuner train` validates on rows that it does not train on, and `xtuner test` measures any checkpoint.

The commands run in this process, on a small Llama and two dozen rows.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from xtuner import cli, log

CONFIG = Path(__file__).parents[1] / "data" / "bad_input" / "config.py"
ROWS = [{"instruction": f"who are you {i}", "input": "", "output": f"a small model {i}"} for i in range(24)]
OPTIONS = ["val_dataloader.held_out=0.25", "default_hooks.checkpoint.save_best=loss", "lr=0.01"]
OPTIONS += ["max_iters=8"]

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture(scope="module")
def here(tmp_path_factory, llama_dir):
    """A folder with `c.py`, `model/`, `d.json`, and `w/` of a finished run."""
    folder = tmp_path_factory.mktemp("validation")
    shutil.copy(CONFIG, folder / "c.py")
    shutil.copytree(llama_dir, folder / "model")
    (folder / "d.json").write_text(json.dumps(ROWS), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(log, "_said", set())
        assert cli.main(["train", "c.py", "--work-dir", "w", "--cfg-options", *OPTIONS]) == 0
        yield folder


def measured(*words):
    """The metrics that `xtuner test` writes beside its log."""
    folder = Path("t")
    shutil.rmtree(folder, ignore_errors=True)
    assert cli.main(["test", "c.py", "--work-dir", "t", *words, "--cfg-options", *OPTIONS]) == 0
    (file,) = folder.glob("*/*.json")
    return json.loads(file.read_text())


def during_training(name, iteration):
    (file,) = Path("w").glob("*/vis_data/scalars.json")
    lines = map(json.loads, file.read_text().splitlines())
    return next(line[f"val/{name}"] for line in lines if "val/loss" in line and line["iter"] == iteration)


def test_a_checkpoint_measures_as_it_did_during_training(here, capsys):
    """A file; the best one is that of the lowest loss."""
    metrics = measured("--checkpoint", "w/iter_8.pth")
    assert metrics["loss"] == pytest.approx(during_training("loss", 8), rel=1e-6)
    assert metrics["perplexity"] == pytest.approx(during_training("perplexity", 8), rel=1e-6)
    assert capsys.readouterr().out == "loss: {loss:.4f}  perplexity: {perplexity:.4f}\n".format(**metrics)
    (best,) = Path("w").glob("best_loss_iter_*.pth")
    assert measured("--checkpoint", str(best))["loss"] <= metrics["loss"]


def test_adapter_and_model_folders_measure_as_the_file_they_came_from(here):
    """Within the rounding of 16 bits and of merging."""
    expected = measured("--checkpoint", "w/iter_8.pth")["loss"]
    convert = ["convert", "pth_to_hf", "c.py", "w/iter_8.pth", "adapter", "--fp32"]
    assert cli.main([*convert, "--cfg-options", *OPTIONS]) == 0
    assert measured("--checkpoint", "adapter")["loss"] == pytest.approx(expected, rel=1e-6)
    assert cli.main(["convert", "merge", "model", "adapter", "merged"]) == 0
    assert measured("--checkpoint", "merged")["loss"] == pytest.approx(expected, rel=2e-2)


def test_without_a_checkpoint_the_base_model_is_measured(here):
    assert measured()["loss"] > measured("--checkpoint", "w/iter_8.pth")["loss"]


def test_the_rows_held_out_are_not_trained_on(here):
    """Six of 24; the others make up the epoch."""
    from xtuner.config import load_config, parse_option
    from xtuner.engine.build import build_run
    from xtuner.engine.run import RunOptions

    run = build_run(load_config("c.py", dict(map(parse_option, OPTIONS))), RunOptions(work_dir="x"))
    trained, held_out = run.train_dataloader.dataset, run.val_loop.dataloader.dataset
    rows = [{row for item in range(len(d)) for row in d.source_rows(item)} for d in (trained, held_out)]
    assert [len(r) for r in rows] == [18, 6]
    assert rows[0] & rows[1] == set()


def test_a_config_without_such_data_is_an_error_with_the_cure(here, capsys):
    assert cli.main(["test", "c.py", "--checkpoint", "w/iter_8.pth"]) == 1
    assert "give val_dataloader = dict(held_out=0.05)" in capsys.readouterr().err
