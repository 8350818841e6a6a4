"""A folder with a config, a small Llama and rows, in which commands run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[2] / "data" / "bad_input" / "config.py"
ROWS = [
    {"instruction": f"who are you {i}", "input": "", "output": f"a small model {i}" * (i % 3 + 1)}
    for i in range(8)
]


@pytest.fixture
def here(tmp_path, llama_dir, monkeypatch) -> Path:
    """A folder with `c.py`, `model/`, `d.json` and `e.json`."""
    text = CONFIG.read_text("utf-8").replace("lora_dropout=0.1", "lora_dropout=dropout")
    text = text.replace("accumulative_counts=1", "accumulative_counts=counts").replace("end=100", "end=end")
    (tmp_path / "c.py").write_text("dropout = 0.1\ncounts = 1\nend = 100\n" + text, "utf-8")
    shutil.copytree(llama_dir, tmp_path / "model")
    (tmp_path / "d.json").write_text(json.dumps(ROWS), encoding="utf-8")
    (tmp_path / "e.json").write_text(json.dumps(ROWS[::-1][:5]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XTUNER_CACHE", str(tmp_path / "cache"))
    return tmp_path
