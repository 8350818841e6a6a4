"""The output of a first run, and that the command it names next works."""

from __future__ import annotations

import io
import json
import shlex
import shutil
from pathlib import Path

import pytest

from xtuner import cli

CONFIG = Path(__file__).parents[1] / "data" / "bad_input" / "config.py"
HOOK = """
from xtuner.engine.hooks import EvaluateChatHook
custom_hooks = [dict(type=EvaluateChatHook, tokenizer=tokenizer, evaluation_inputs=['who are you'],
                     max_new_tokens=4, prompt_template=prompt_template)]
"""

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_end_of_training_names_the_next_steps(method, tmp_path, llama_dir, monkeypatch, capfd):
    """The last samples are drawn once; each command that is named ends with 0."""
    text = CONFIG.read_text(encoding="utf-8") + HOOK + ("model['lora'] = None\n" if method == "full" else "")
    (tmp_path / "c.py").write_text(text, encoding="utf-8")
    shutil.copytree(llama_dir, tmp_path / "model")
    rows = [{"instruction": f"who are you {i}", "input": "", "output": f"a model {i}"} for i in range(6)]
    (tmp_path / "d.json").write_text(json.dumps(rows), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "c.py", "--work-dir", "w", "--cfg-options", "max_iters=2"]) == 0
    said = capfd.readouterr().err
    assert said.count("Sample output:") == 2  # before training, and after it
    _, _, after = said.partition("Done. Next:\n")
    chat = "xtuner chat model --adapter w/hf" if method == "lora" else "xtuner chat w/hf"
    convert = "xtuner convert pth_to_hf w/c.py w/iter_2.pth w/hf"
    assert after.splitlines() == [f"  {convert}", f"  {chat}"]
    assert cli.main(shlex.split(convert)[1:]) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("exit\n\n"))
    assert cli.main(shlex.split(chat)[1:]) == 0
    assert "Log: Exit!" in capfd.readouterr().out
