"""`xtuner score`: the file that it writes, and how a killed run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.end_to_end.test_dpo import pairs
from xtuner import cli
from xtuner.scoring.file import WINDOW
from xtuner.scoring.rows import read_scored
from xtuner.scoring.scorer import load_scorer

ROWS = [
    {"prompt": "who?", "chosen": "A small model.", "rejected": "No."},
    {"prompt": "who?", "chosen": "A model.", "rejected": ["No.", "Go away."]},
    {"prompt": "who?", "completions": ["A", "B", "C"]},
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello!"}]},
    {"text": "hello"},
]


def write(name, rows):
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def results(name="scores.jsonl"):
    return [json.loads(line) for line in Path(name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_line_for_each_row(here, reward_dir, run):
    """Scores are those of each text alone; rows that cannot be read are counted and named."""
    write("d.jsonl", ROWS)
    with Path("d.jsonl").open("a") as file:
        file.write('\n{"foo": 1}\n{"broken\n')
    out = run("score", reward_dir, "d.jsonl", "--batch-size", 3)
    scorer = load_scorer(reward_dir)
    wanted = [[scorer.logits([scorer.encode(t)[0]]).item() for t in read_scored(row).texts] for row in ROWS]
    found = results()
    assert [row["id"] for row in found] == [f"d.jsonl:{line}" for line in (1, 2, 3, 4, 5, 7, 8)]
    assert [set(row) - {"id"} for row in found] == [
        *({"chosen", "rejected"}, {"chosen", "rejected"}, {"scores"}, {"score"}, {"score"}),
        *({"error"}, {"error"}),
    ]
    numbers = [
        *(found[0]["chosen"], found[0]["rejected"], found[1]["chosen"], *found[1]["rejected"]),
        *(*found[2]["scores"], found[3]["score"], found[4]["score"]),
    ]
    flat = [value for row in wanted for value in row]
    torch.testing.assert_close(torch.tensor(numbers), torch.tensor(flat), rtol=1e-5, atol=1e-5)
    margins = [flat[0] - flat[1], flat[2] - flat[3], flat[2] - flat[4]]
    accuracy = sum(margin > 0 for margin in margins) / 3
    lines = out.splitlines()
    assert lines[:2] == [
        "5 rows scored",
        f"3 pairs: accuracy {accuracy:.4f}, mean margin {sum(margins) / 3:.4f}",
    ]
    assert lines[2].startswith("scores: mean ")
    assert lines[3].startswith("2 rows could not be read: d.jsonl:7: dataset_map_fn = 'auto' knows no format")
    assert "; d.jsonl line 8 column 9: broken JSON" in lines[3]
    assert lines[4:] == ["The results are in scores.jsonl"]
    assert sorted(path.name for path in here.iterdir()) == ["d.jsonl", "scores.jsonl"]


def test_classes(here, scoring_dir, run):
    """The likeliest label with all probabilities; several labels where the model was trained so."""
    write("d.jsonl", [{"text": "hello"}, {"text": "你是谁？"}])
    names = {"num_labels": 3, "id2label": {0: "ham", 1: "spam", 2: "odd"}}
    out = run("score", scoring_dir(**names), "d.jsonl")
    for row in results():
        assert list(row) == ["label", "probabilities", "id"] or list(row) == ["id", "label", "probabilities"]
        assert sum(row["probabilities"].values()) == pytest.approx(1)
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].get)
    assert any(line.startswith(f"{results()[0]['label']}: ") for line in out.splitlines())
    run("score", scoring_dir(**names, problem_type="multi_label_classification"), "d.jsonl", "--out", "m")
    assert all(
        row["labels"] == [n for n, p in row["probabilities"].items() if p > 0.5] for row in results("m")
    )
    run("score", scoring_dir(**names, problem_type="regression"), "d.jsonl", "--out", "r")
    assert all(set(row["score"]) == {"ham", "spam", "odd"} for row in results("r"))


def test_a_list_in_one_line_has_ids_too(here, reward_dir, run):
    """And a text that is longer than the model reads says so."""
    Path("d.json").write_text(json.dumps([{"text": "a"}, {"text": "hello " * 20}]) + "\n")
    out = run("score", reward_dir, "d.json", "--max-length", 8)
    assert [(row["id"], row.get("cut")) for row in results()] == [("d.json:1", None), ("d.json:1#2", True)]
    assert "1 row was cut at the length that the model reads" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["score", "llama", "d.jsonl"],
            "llama is a LlamaForCausalLM, which gives no scores: name a model for",
        ),
        (["score", "reward", "none.jsonl"], "none.jsonl"),
        (["score", "reward", "odd.jsonl"], "odd.jsonl has no row that can be scored: odd.jsonl:1: "),
        (["score", "reward", "d.jsonl", "--batch-size", "0"], "--batch-size is 0: write 1 or more"),
        (["chat", "reward"], "was saved as LlamaForSequenceClassification, whose head does not write text"),
    ],
)
def test_wrong_calls_are_one_line(here, reward_dir, llama_dir, words, message, capsys):
    """The same of a reward model that is to chat."""
    Path("llama").symlink_to(llama_dir)
    Path("reward").symlink_to(reward_dir)
    write("d.jsonl", ROWS)
    write("odd.jsonl", [{"foo": 1}])
    assert cli.main(words) == 1
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("xtuner: error: ")]
    assert len(err) == 1
    assert message in err[0]
    assert not Path("scores.jsonl").exists()
    assert not list(here.glob(".scores*"))


def part():
    return next(iter(Path().glob(".scores.jsonl.*.part")), None)


@pytest.mark.slow
def test_a_killed_run_goes_on(here, reward_dir, run):
    """Killed with -9 in the middle: what it had written stays, byte by byte, and is not scored again."""
    write("d.jsonl", pairs(400))
    run("score", reward_dir, "d.jsonl", "--batch-size", 1, "--out", "whole.jsonl")
    command = [sys.executable, "-m", "xtuner", "score", reward_dir, "d.jsonl", "--batch-size", "1"]
    process = subprocess.Popen(command, env=os.environ, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not ((found := part()) and found.stat().st_size) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not Path("scores.jsonl").exists()
    kept = part().read_bytes()
    num_kept = kept.count(b"\n")
    assert 0 < num_kept < 400
    assert num_kept % WINDOW == 0
    with part().open("ab") as file:
        file.write(b'{"id": "cut o')
    text = run("score", reward_dir, "d.jsonl", "--batch-size", 1, with_log=True)
    assert f"scores.jsonl: {num_kept} rows are scored already, the run continues after them" in text
    assert "400 rows scored" in text
    assert Path("scores.jsonl").read_bytes().startswith(kept)
    assert Path("scores.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert part() is None


def test_lines_of_another_model_or_other_data_are_not_continued(here, reward_dir, run):
    """They are removed when the file is complete."""
    write("d.jsonl", ROWS)
    Path(".scores.jsonl.0123456789abcdef.part").write_text('{"id": "d.jsonl:1", "score": 1.0}\n')
    text = run("score", reward_dir, "d.jsonl", with_log=True)
    assert "already" not in text
    assert len(results()) == 5
    assert part() is None
    assert "existed: replaced" in run("score", reward_dir, "d.jsonl", with_log=True)
