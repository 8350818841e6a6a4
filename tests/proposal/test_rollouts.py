"""`xtuner new-cfg --method grpo` writes a config that check accepts and that trains."""

import json
import shutil
from pathlib import Path

import pytest

from xtuner import cli

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def here(tmp_path, monkeypatch, llama_dir):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(llama_dir, "model")
    Path("own.py").write_text("def good(question, answer, row):\n    return len(answer) / 100\n")


def new(rows, *words):
    """The exit code of new-cfg for these rows."""
    Path("d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return cli.main(["new-cfg", "--model", "model", "--data", "d.jsonl", "--out", "c.py", *words])


@pytest.mark.parametrize("answered", [True, False])
def test_the_config_trains(here, answered, capsys):
    """Rows with and without an answer; with enough of them some are held out for validation."""
    rows = [
        {"question": f"who are you {n}", **({"answer": f"a model {n}"} if answered else {})}
        for n in range(48)
    ]
    assert new(rows, "--method", "grpo", "--reward", "own.py:good", "--template", "qwen_chat") == 0
    out = capsys.readouterr().out
    assert f"max_new_tokens = {64 if answered else 256}" in out
    assert "method = grpo_lora" in out
    text = Path("c.py").read_text()
    assert "rewards = ['own.py:good']" in text
    assert "val_dataloader = dict(held_out=0.05)" in text
    assert cli.main(["check", "c.py"]) == 0
    assert capsys.readouterr().err == ""
    options = ["max_new_tokens=4", "max_epochs=1", "accumulative_counts=1", "save_steps=3", "batch_size=16"]
    assert cli.main(["train", "c.py", "--work-dir", "w", "--cfg-options", *options]) == 0
    assert list(Path("w").glob("best_reward_iter_3.pth"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "grpo"], "--method grpo needs a --reward: FILE.py:FUNCTION, or one of exact, contains"),
        (["--reward", "exact"], "--reward is for --method grpo: add it, or leave out --reward"),
        (["--method", "grpo", "--reward", "own.py:god"], "own.py:god: there is no function god"),
    ],
)
def test_mistakes_are_one_line(here, words, message, capsys):
    """Before the model is looked at."""
    assert new([{"question": "a", "answer": "b"}], *words) == 1
    assert message in capsys.readouterr().err
