"""Text data on models that see: from new-cfg to chat, by every method."""

import json

import pytest
import torch
from transformers import AutoModelForImageTextToText

from tests import seeing
from xtuner import log
from xtuner.chat.terminal import PROMPT

CHATS = [{"instruction": f"who are you {i}", "output": f"a small model {i}"} for i in range(8)]
PARTS = ("model.language_model.", "model.text_model.")
RUNS = [
    *(("qwen2_5_vl", method) for method in ("full", "lora", "qlora")),
    *(("qwen3_vl", method) for method in ("full", "lora", "qlora")),
    ("gemma3", "full"),
    ("gemma3", "lora"),
    ("smolvlm", "lora"),
]
SHORT = ("--max-new-tokens", 8, "--torch-dtype", "fp32", "--temperature", 0, "--prompt-template", "default")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "d.json").write_text(json.dumps(CHATS), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(log, "_said", set())
    return tmp_path


def weights(folder):
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    return dict(model.named_parameters())


@pytest.mark.parametrize(("family", "method"), RUNS)
def test_from_new_cfg_to_chat(family, method, here, run, tokenizer):
    """The vision tower is unchanged, the language part is trained; the merged folder answers about images."""
    base = seeing.save(family, here / "model", tokenizer)
    printed = run("new-cfg", "--model", "model", "--data", "d.json", "--method", method, "--out", "my.py")
    assert f"family {family}" in printed
    assert " of the parts that see or hear" in run("check", "my.py")
    run("train", "my.py", "--work-dir", "w", "--cfg-options", "max_epochs=1", "lr=0.01")
    checkpoint = max(here.glob("w/iter_*.pth"))
    result = here / "result"
    run("convert", "pth_to_hf", "my.py", checkpoint, result, "--fp32")
    if method != "full":
        asked = run("chat", "model", "--adapter", result, *SHORT, script="hello")
        assert len(asked.split(PROMPT)[1]) > 1
        run("convert", "merge", "model", result, "merged")
        result = here / "merged"
    before, after = weights(base), weights(result)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(
        "language_model" in name or "text_model" in name or name == "lm_head.weight" for name in changed
    )
    assert (result / "preprocessor_config.json").read_bytes() == (
        base / "preprocessor_config.json"
    ).read_bytes()
    told = run("chat", result, *SHORT, script="hello")
    assert len(told.split(PROMPT)[1]) > 1
    if method == "lora":
        assert told == asked
