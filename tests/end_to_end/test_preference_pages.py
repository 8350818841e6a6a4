"""The configs of docs/preferences/ train and validate, and their losses start as the pages say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.end_to_end.test_dpo import TEMPLATE, pairs, scalars
from tests.end_to_end.test_heads import blocks, whole_config
from xtuner import cli

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
LABELLED = [
    {"prompt": f"who are you {n}", "completion": f"a model {n}" if good else f"no {n}", "label": good}
    for n in range(12)
    for good in (True, False)
]
# The loss of the first update, if it is the same for every model.
STARTS = {"dpo": 0.693, "orpo": None, "simpo": None, "cpo": None, "kto": 0.5, "reward": 0.661}


@pytest.mark.parametrize("method", STARTS)
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_the_config_of_a_page_trains(method, lora, tmp_path, monkeypatch, saved, capsys):
    """`check` finds no fault, the loss of validation falls, and `best` of the page is a metric."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved("llama"), "model")
    settings = json.loads(Path("model/tokenizer_config.json").read_text())
    Path("model/chat_template.jinja").unlink(missing_ok=True)
    Path("model/tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))
    rows = LABELLED if method == "kto" else pairs(24)
    for name in ("train.jsonl", "val.jsonl"):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (part,) = blocks(f"preferences/{method}.md")
    Path("c.py").write_text(whole_config(part))
    assert cli.main(["check", "c.py"]) == 0
    options = ["lr=0.003", "max_length=64", "max_packed_length=256", "max_iters=8", "interval=4"]
    options += ["default_hooks.logger.interval=1", "optim_wrapper.dtype=float32"]
    options += [] if lora else ["lora=None"]
    assert cli.main(["train", "c.py", "--work-dir", "w", "--cfg-options", *options]) == 0
    lines = scalars("w")
    first, last = (line["val/loss"] for line in lines if "val/loss" in line)
    assert last < first
    if STARTS[method] is not None:
        assert lines[0]["loss"] == pytest.approx(STARTS[method], abs=1e-3)
    assert list(Path("w").glob("best_*acc_iter_*.pth"))
    assert cli.main(["convert", "pth_to_hf", "c.py", "w/iter_8.pth", "out", "--cfg-options", *options]) == 0
    assert Path("out", "adapter_config.json").exists() == lora
