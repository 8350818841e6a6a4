"""The tutorials' configs, statement for statement, through the tutorials' commands.

A run that is killed, one that goes on, and one that trains to its end are real processes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.killed import kill_when

# peft asks for a property that transformers has renamed.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]


def xtuner(*words: str, cwd: Path, **kwargs) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "xtuner", *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, encoding="utf-8", **kwargs)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def final_weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_tutorial_001_train_kill_resume_convert_merge_chat(tutorial_001, run, monkeypatch):
    """The self-cognition fine-tune: QLoRA, fp16, nf4, a plain JSON file as the data's path."""
    here, config = tutorial_001, "internlm2_1_8b_qlora_alpaca_e3_copy.py"
    # Smaller numbers for speed alone; everything else is the tutorial's.
    options = ["--seed", "0", "--cfg-options", "save_steps=5", "accumulative_counts=4", "max_length=512"]
    options += ["max_epochs=2", "custom_hooks.1.max_new_tokens=8"]
    whole, cut = here / "whole", here / "cut"
    monkeypatch.chdir(here)
    run("train", config, "--work-dir", "whole", *options)
    train = ("train", config, "--work-dir", "cut", *options)
    kill_when((cut / "iter_5.pth").exists, *train, cwd=here)
    resumed = xtuner(*train, "--resume", cwd=here)
    assert "Resumed at iter" in resumed.stderr
    name = Path((whole / "last_checkpoint").read_text()).name
    assert equal(final_weights(whole / name), final_weights(cut / name))

    run("convert", "pth_to_hf", config, f"cut/{name}", "hf")
    assert {p.name for p in (here / "hf").iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "xtuner_config.py",
    }
    merge = ["convert", "merge", "../model", "hf", "merged", "--max-shard-size", "2GB"]
    assert "All done!" in run(*merge, with_log=True)
    words = ["chat", "merged", "--prompt-template", "default", "--max-new-tokens", "8"]
    assert "Log: Exit!" in run(*words, script="你是谁\n\nRESET\n\nEXIT\n\n")


def test_tutorial_003_by_epoch_with_tensorboard(tutorial_003, run, monkeypatch):
    """The counsellor: conversations, epochs, LoRA on wqkv, wo, w1, w2, w3, device_map, TensorBoard."""
    config = "train/internlm2_chat_1_8b_qlora_emo_e3.py"
    xtuner("train", config, "--cfg-options", "custom_hooks.1.max_new_tokens=8", cwd=tutorial_003)
    work_dir = tutorial_003 / "work_dirs" / "internlm2_chat_1_8b_qlora_emo_e3"
    (log_dir,) = [p for p in work_dir.iterdir() if p.is_dir()]
    names = {p.name for p in work_dir.iterdir()} - {log_dir.name}
    assert names == {
        "epoch_1.pth",
        "epoch_2.pth",
        "epoch_3.pth",
        "internlm2_chat_1_8b_qlora_emo_e3.py",
        "last_checkpoint",
    }
    lines = (log_dir / "vis_data" / "scalars.json").read_text().splitlines()
    assert {"lr", "loss", "grad_norm", "tokens_per_sec", "tflops", "memory"} <= set(json.loads(lines[-1]))
    assert list(log_dir.glob("vis_data/events.out.tfevents.*"))
    assert list(log_dir.glob("vis_data/eval_outputs_iter_*.txt"))
    monkeypatch.chdir(tutorial_003)
    run("convert", "pth_to_hf", config, work_dir / "epoch_3.pth", "hf")
    adapter = json.loads((tutorial_003 / "hf" / "adapter_config.json").read_text())
    assert sorted(adapter["target_modules"]) == ["w1", "w2", "w3", "wo", "wqkv"]
    words = [
        "--bits",
        "4",
        "--temperature",
        "0.7",
        "--top-k",
        "50",
        "--top-p",
        "0.9",
        "--max-new-tokens",
        "8",
    ]
    model = ["chat", "models/internlm2-chat-1_8b", "--adapter", "hf"]
    assert "Log: Exit!" in run(*model, *words, "--system", "你好", script="你是谁\n\nEXIT\n\n")
