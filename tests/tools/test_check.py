"""The command `xtuner check`."""

import json
import shutil
from pathlib import Path

import pytest

from xtuner import cli

CONFIG = Path(__file__).parents[1] / "data" / "bad_input" / "config.py"


@pytest.fixture
def here(tmp_path, llama_dir, monkeypatch):
    shutil.copy(CONFIG, tmp_path / "c.py")
    shutil.copytree(llama_dir, tmp_path / "model")
    (tmp_path / "d.json").write_text('[{"instruction": "a", "input": "", "output": "b"}]')
    monkeypatch.chdir(tmp_path)


def test_a_valid_config_ends_with_0_and_prints_the_estimate(here, capsys):
    assert cli.main(["check", "c.py"]) == 0
    printed, said = capsys.readouterr()
    assert said == ""
    assert printed.startswith("c.py: no errors, no warnings\nmemory   about 0.5")
    assert "time     very roughly" in printed


def test_each_error_is_a_line_and_the_exit_code_1(here, capsys):
    options = ["--cfg-options", "train_dataloader.batch_size=0", "data_path=x.json", "max_iters=-1"]
    assert cli.main(["check", "c.py", *options]) == 1
    printed, said = capsys.readouterr()
    assert [line[:15] for line in said.splitlines()] == ["xtuner: error: "] * 3
    assert printed.startswith("c.py: 3 errors, no warnings")


def test_json_for_scripts(here, capsys):
    assert cli.main(["check", "c.py", "--json", "--cfg-options", "train_dataloader.batch_size=0"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [e["path"] for e in found["errors"]] == ["train_dataloader.batch_size"]
    assert found["memory"]["total"] == sum(found["memory"]["parts"].values())


def test_train_prints_all_errors_before_it_loads_anything(here, capsys):
    """The same lines, and no work dir."""
    options = ["--cfg-options", "train_dataloader.batch_size=0", "data_path=x.json"]
    assert cli.main(["train", "c.py", *options]) == 1
    assert capsys.readouterr().err.count("xtuner: error: ") == 2
    assert not Path("work_dirs").exists()


def test_a_typo_in_an_option_gets_a_suggestion(here, capsys):
    assert cli.main(["check", "c.py", "--cfg-options", "lrr=1"]) == 1
    assert "Did you mean 'lr'?" in capsys.readouterr().err


def test_a_built_in_name_is_checked_too(capsys):
    assert cli.main(["check", "qwen3_8b_qlora_alpaca_e3"]) == 0
    assert "8.19 billion weights" in capsys.readouterr().out


def test_a_plan_for_many_processes(capsys):
    assert cli.main(["check", "llama3_8b_full_alpaca_e3", "--processes", "64", "--per-node", "4"]) == 0
    printed = capsys.readouterr().out
    assert " for each of 64 processes, ddp, " in printed
    assert "plan     64 processes, 4 on a machine, each with " in printed


def test_processes_of_the_environment_count(monkeypatch, capsys):
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    assert cli.main(["check", "qwen3_8b_qlora_alpaca_e3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["memory"]["processes"] == 2


def write_rows(lengths):
    rows = [{"instruction": "a", "input": "", "output": "b " * length} for length in lengths]
    Path("d.json").write_text(json.dumps(rows))


def test_the_longest_batch_is_tried(here, capsys):
    """Its number, tokens and rows are shown; weights and work dir of the run are left alone."""
    write_rows([3, 20, 100, 5])
    assert cli.main(["check", "c.py", "--longest", "--json"]) == 0
    longest = json.loads(capsys.readouterr().out)["longest"]
    assert (longest["num_batches"], longest["rows"]) == (4, "d.json line 1, row 3")
    assert 100 < longest["num_tokens"] <= 128
    assert longest["peak"] > 2**20
    assert cli.main(["check", "c.py", "--longest"]) == 0
    assert "Its rows: d.json line 1, row 3\n" in capsys.readouterr().out
    assert not Path("work_dirs").exists()


def test_the_longest_batch_of_a_stream_is_not_known(here, capsys):
    assert (
        cli.main(["check", "c.py", "--longest", "--cfg-options", "train_dataloader.dataset.streaming=True"])
        == 1
    )
    assert "with streaming = True rows are read while training" in capsys.readouterr().err
