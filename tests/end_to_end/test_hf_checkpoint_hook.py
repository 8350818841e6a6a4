"""HFCheckpointHook: the folder of the trained model is there when the run is over."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from xtuner import cli

CONFIG = Path(__file__).parents[1] / "data" / "bad_input" / "config.py"
HOOK = "\nfrom xtuner.engine.hooks import HFCheckpointHook\ncustom_hooks = [dict(type=HFCheckpointHook)]\n"

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def here(tmp_path, llama_dir, monkeypatch):
    """A folder with `c.py`, `d.json` and `model/`."""
    shutil.copytree(llama_dir, tmp_path / "model")
    rows = [{"instruction": f"Say {n}.", "input": "", "output": f"{n}"} for n in range(4)]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    (tmp_path / "c.py").write_text(CONFIG.read_text() + HOOK)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_the_folder_is_that_of_pth_to_hf(here, kind):
    """Of an adapter or of all weights; a run in the same work dir replaces it."""
    full = "model.lora=None" if kind == "model" else "r=4"
    for _ in range(2):
        assert cli.main(["train", "c.py", "--work-dir", "w", "--cfg-options", "max_iters=2", full]) == 0
    assert cli.main(["convert", "pth_to_hf", "w/c.py", "w/iter_2.pth", "out"]) == 0
    written = contents("w/hf_model")
    expected = contents("out")
    assert [name for name in written | expected if written.get(name) != expected.get(name)] == []
    assert {"adapter": "adapter_model.safetensors", "model": "model.safetensors"}[kind] in written


def test_python_imports_it_from_the_path_of_configs():
    from xtuner.engine import hooks
    from xtuner.engine.hooks import HFCheckpointHook

    assert issubclass(HFCheckpointHook, hooks.Hook)
    with pytest.raises(AttributeError, match=r"module 'xtuner.engine.hooks' has no attribute 'HFHook'"):
        _ = hooks.HFHook


def test_a_folder_of_its_own(here):
    options = ["max_iters=1", "custom_hooks.0.out_dir=made", "interval=-1"]
    assert cli.main(["train", "c.py", "--cfg-options", *options]) == 0
    assert "adapter_config.json" in contents("made")


def test_without_the_last_checkpoint_there_is_nothing_to_convert(here, capsys):
    """Said before the first iteration."""
    options = ["max_iters=1", "default_hooks.checkpoint.save_last=False"]
    assert cli.main(["train", "c.py", "--cfg-options", *options]) == 1
    assert "HFCheckpointHook makes a folder of the last checkpoint" in capsys.readouterr().err
