"""Adapters other than LoRA by the commands: train, stop, resume, convert, chat, merge."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.end_to_end.test_dpo import TEMPLATE
from xtuner import cli

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
ADAPTERS = {
    "OFTConfig": "oft_block_size=16",
    "AdaLoraConfig": "init_r=4, target_r=2, tinit=1, tfinal=2, deltaT=1, total_step=100",
    "PromptTuningConfig": "num_virtual_tokens=4",
}


@pytest.fixture
def train(tmp_path, monkeypatch, saved):
    """Trains eight updates of an adapter in a work dir, with more options; `model` is the base."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved("llama"), "model")
    Path("model/chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads(Path("model/tokenizer_config.json").read_text())
    Path("model/tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))
    turns = [
        [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}!"}] for n in range(24)
    ]
    Path("rows.jsonl").write_text("".join(json.dumps({"messages": turn}) + "\n" for turn in turns))
    words = ["--model", "model", "--data", "rows.jsonl", "--method", "lora", "--out", "made.py"]
    assert cli.main(["new-cfg", *words]) == 0

    def run(name, work_dir, *words):
        text = Path("made.py").read_text().replace("from peft import LoraConfig", f"from peft import {name}")
        text = re.sub(r"lora=dict\(.*?\)", f"lora=dict(type={name}, {ADAPTERS[name]})", text, flags=re.S)
        Path("c.py").write_text(text)
        options = ["lr=0.01", "max_length=64", "train_cfg.max_epochs=None", "train_cfg.max_iters=8"]
        options += [
            "default_hooks.checkpoint.interval=4",
            "accumulative_counts=1",
            "optim_wrapper.dtype=float32",
        ]
        command = ["train", "c.py", "--work-dir", work_dir, *words, "--seed", "3", "--cfg-options", *options]
        return cli.main(command)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", ADAPTERS)
def test_the_commands(name, train, run):
    """A resumed run has the bits of the unbroken one; its folder chats, and merges if that type does."""
    assert train(name, "w") == 0
    assert train(name, "again", "--resume", "w/iter_4.pth") == 0
    states = [torch.load(f"{folder}/iter_8.pth", weights_only=True) for folder in ("w", "again")]
    assert states[0]["state_dict"].keys() == states[1]["state_dict"].keys()
    for key, value in states[0]["state_dict"].items():
        assert torch.equal(value, states[1]["state_dict"][key]), key
    assert cli.main(["convert", "pth_to_hf", "c.py", "w/iter_8.pth", "hf"]) == 0
    assert load_file("hf/adapter_model.safetensors")
    merges = name != "PromptTuningConfig"
    assert cli.main(["convert", "merge", "model", "hf", "merged"]) == (0 if merges else 1)
    words = ("chat", "--prompt-template", "default", "--temperature", "0", "--max-new-tokens", "4")
    beside = run(words[0], "model", "--adapter", "hf", *words[1:], script="1?\n\nEXIT\n\n")
    assert "1?" in beside or beside
