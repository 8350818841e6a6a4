"""A config with its model folder and data file, to be spoilt."""

import json
import shutil
from pathlib import Path

import pytest

from xtuner.config import load_config

CONFIG = Path(__file__).parents[1] / "data" / "bad_input" / "config.py"
ROWS = [{"instruction": f"who are you {i}", "input": "", "output": f"a small model {i}"} for i in range(6)]


@pytest.fixture
def here(tmp_path, llama_dir, monkeypatch) -> Path:
    """A folder with `c.py`, `model/` and `d.json`, which is the current one."""
    shutil.copy(CONFIG, tmp_path / "c.py")
    shutil.copytree(llama_dir, tmp_path / "model")
    (tmp_path / "d.json").write_text(json.dumps(ROWS), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def load(here):
    """The config with edits of its text and options."""

    def edited(*edits: tuple[str, str], **options):
        text = (here / "c.py").read_text(encoding="utf-8")
        for old, new in edits:
            assert old in text
            text = text.replace(old, new)
        (here / "c.py").write_text(text, encoding="utf-8")
        return load_config("c.py", options)

    return edited
