"""`xtuner test CONFIG --checkpoints WORK_DIR`: a table of all checkpoints of a run by all metrics.

The commands run in this process, on a small Llama and two dozen rows.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from xtuner import cli, log
from xtuner.evaluation.checkpoint_table import Part, Row, Table, print_table, read_table

CONFIG = Path(__file__).parents[1] / "data" / "bad_input" / "config.py"
ROWS = [{"instruction": f"who are you {i}", "input": "", "output": f"a small model {i}"} for i in range(24)]
OPTIONS = ["lr=0.02", "max_iters=6", "interval=2", "default_hooks.checkpoint.max_keep_ckpts=-1"]
OPTIONS += ["default_hooks.checkpoint.save_best=loss"]
DATA = ["val_dataloader.held_out=0.25"]
CHOICES = [
    {"question": f"who are you {i}", "choices": [f"a small model {i}", "the rain"], "answer": 0}
    for i in range(6)
]
TASKS = ["--tasks", "c.jsonl", "book.txt", "--limit", "5"]

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, llama_dir):
    """A folder with `c.py`, `model/`, questions, and `w/` of a finished run with four checkpoints."""
    folder = tmp_path_factory.mktemp("table")
    shutil.copy(CONFIG, folder / "c.py")
    shutil.copytree(llama_dir, folder / "model")
    (folder / "d.json").write_text(json.dumps(ROWS), encoding="utf-8")
    (folder / "c.jsonl").write_text("\n".join(map(json.dumps, CHOICES)), encoding="utf-8")
    (folder / "book.txt").write_text("a small model\nwho are you", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(log, "_said", set())
        assert cli.main(["train", "c.py", "--work-dir", "w", "--cfg-options", *OPTIONS, *DATA]) == 0
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """A copy of that folder."""
    shutil.copytree(trained, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def measured(*words, options=(*OPTIONS, *DATA)):
    """The numbers of each checkpoint in the table, by name, in order."""
    assert cli.main(["test", "c.py", *words, "--cfg-options", *options]) == 0
    table = read_table(Path("w/measured/checkpoints.json"))
    return {row.name: row.metrics for row in table.rows}


def alone(*words):
    """What `xtuner test` measures of one."""
    shutil.rmtree("t", ignore_errors=True)
    assert cli.main(["test", "c.py", "--work-dir", "t", *words, "--cfg-options", *OPTIONS, *DATA]) == 0
    (file,) = Path("t").glob("*/*.json")
    return json.loads(file.read_text())


def test_each_has_the_numbers_that_it_has_alone(here, capsys):
    """The base first, checkpoints by age, others after them; those of validation to the bit, of eval too."""
    found = measured("--checkpoints", "w", *TASKS)
    (best,) = [p.name for p in Path("w").glob("best_loss_*.pth")]
    assert list(found) == ["base", "iter_2.pth", "iter_4.pth", "iter_6.pth", best]
    out = capsys.readouterr().out
    assert all(name in out for name in found)
    assert {n: found["base"][n] for n in ("loss", "perplexity")} == alone()
    assert {n: found["iter_4.pth"][n] for n in ("loss", "perplexity")} == alone(
        "--checkpoint", "w/iter_4.pth"
    )
    convert = ["convert", "pth_to_hf", "c.py", "w/iter_4.pth", "a", "--fp32", "--cfg-options", *OPTIONS]
    assert cli.main(convert) == 0
    words = ["eval", "model", "--adapter", "a", *TASKS, "--work-dir", "e", "--torch-dtype", "fp32"]
    assert cli.main(words) == 0
    (file,) = Path("e").glob("*/results.json")
    tasks = json.loads(file.read_text())["tasks"]
    of_eval = {f"{task} {n}": v for task, own in tasks.items() for n, v in own["metrics"].items()}
    assert {n: found["iter_4.pth"][n] for n in of_eval} == pytest.approx(of_eval, rel=1e-5)
    assert len({row["loss"] for row in found.values()}) >= 4


def test_what_is_measured_stays(here, capsys, monkeypatch):
    """Nothing is measured twice; new checkpoints, changed ones and new tasks are."""
    first = measured("--checkpoints", "w")
    monkeypatch.setattr(
        "xtuner.engine.validation.ValLoop.run", lambda self: pytest.fail("measured again"), raising=True
    )
    assert measured("--checkpoints", "w") == first
    assert capsys.readouterr().err.count("is measured already") == len(first)
    found = measured("--checkpoints", "w", *TASKS)
    assert {name: row["loss"] for name, row in found.items()} == {n: row["loss"] for n, row in first.items()}
    assert all("c acc" in row for row in found.values())
    monkeypatch.undo()
    monkeypatch.chdir(here)
    shutil.copy("w/iter_2.pth", "w/iter_6.pth")
    again = measured("--checkpoints", "w")
    assert again["iter_6.pth"]["loss"] == again["iter_2.pth"]["loss"] != first["iter_6.pth"]["loss"]
    assert again["base"]["c acc"] == found["base"]["c acc"]


def test_some_that_are_named_and_one_that_is_damaged(here, capsys):
    """A damaged one is named and left out; those of an earlier table stay in the file."""
    measured("--checkpoints", "w/iter_2.pth", "w/iter_4.pth")
    content = bytearray(Path("w/iter_6.pth").read_bytes())
    content[len(content) // 2] ^= 1
    Path("w/iter_6.pth").write_bytes(content)
    measured("--checkpoints", "w/iter_2.pth", "w/iter_6.pth")
    # A command that could measure none of its own has failed.
    assert cli.main(["test", "c.py", "--checkpoints", "w/iter_6.pth", "--cfg-options", *OPTIONS, *DATA]) == 1
    table = read_table(Path("w/measured/checkpoints.json"))
    found = {row.name: row.metrics for row in table.rows}
    assert list(found) == ["base", "iter_6.pth", "iter_2.pth", "iter_4.pth"]
    assert found["iter_6.pth"] == {}
    out = capsys.readouterr().out
    assert "iter_6.pth could not be measured: " in out
    assert "damaged" in out


def test_tasks_need_no_validation_data(here):
    found = measured("--checkpoints", "w/iter_2.pth", *TASKS, options=OPTIONS)
    names = ["c acc", "book perplexity", "book word_perplexity", "book byte_perplexity", "book bits_per_byte"]
    assert [list(row) for row in found.values()] == [names, names]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--checkpoints", "model"], "model is not a checkpoint of a run"),
        (["--checkpoints", "no"], "there is no checkpoint 'no'"),
        (["--tasks", "c.jsonl"], "--tasks is for --checkpoints"),
        (["--checkpoints", "empty"], "there is no checkpoint in empty"),
        (["--checkpoints", "w/iter_2.pth", "w/iter_2.pth"], "two checkpoints are named iter_2.pth"),
    ],
)
def test_mistakes_are_one_line(here, words, message, capsys):
    Path("empty").mkdir()
    assert cli.main(["test", "c.py", *words, "--cfg-options", *OPTIONS, *DATA]) == 1
    assert message in capsys.readouterr().err


def test_the_best_of_each_column_is_marked(capsys):
    """The smallest loss, the largest accuracy, all that share it; a number that is none is never best."""
    rows = [
        Row("base", None, {"validation": Part("", {"loss": float("nan"), "acc": 0.5})}),
        Row("iter_2.pth", "w/iter_2.pth", {"validation": Part("", {"loss": 1.0, "acc": 0.5})}),
        Row("iter_4.pth", "w/iter_4.pth", {"validation": Part("", {"loss": 123456.0})}),
    ]
    print_table(Table(rows, {"loss": False, "acc": True}))
    cells = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert [[c.strip() for c in line] for line in cells] == [
        ["base", "nan", "0.5000 *"],
        ["iter_2.pth", "1.0000 *", "0.5000 *"],
        ["iter_4.pth", "1.235e+05", "-"],
    ]


def test_the_best_is_told_by_the_first_number_that_differs():
    """An accuracy that all share says nothing; where all share all, the first is named."""

    def table(*numbers):
        rows = [
            Row(str(k), None, {"tasks": Part("", {"a acc": a, "b bleu": b})})
            for k, (a, b) in enumerate(numbers)
        ]
        return Table(rows, {"a acc": True, "b bleu": True})

    assert table((0.0, 10.0), (0.0, 90.0)).deciding == "b bleu"
    assert table((0.0, 10.0), (0.5, 10.0)).deciding == "a acc"
    assert table((0.0, 10.0), (0.0, 10.0)).deciding == "a acc"
    assert Table([], {}).deciding is None
