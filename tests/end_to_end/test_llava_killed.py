"""LLaVA's whole chain by the tutorials' commands: both stages, a conversion and a benchmark are killed.

stage 1 ──killed, resumed──> projector ──> stage 2 ──killed, resumed──> adapters
                                             ──> three layouts, of which one is killed ──> chat
                                             ──> mmbench ──killed, started again──> answers
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import killed
from tests.evaluation.vision.pictures import choice_rows, write_tsv
from tests.llava import picture_file, save_llava
from xtuner.chat.terminal import PROMPT
from xtuner.engine.checkpoints.files import load_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]

STAGE_1 = "llava_internlm2_chat_1_8b_clip_vit_large_p14_336_e1_gpu8_pretrain"
STAGE_2 = "llava_internlm2_chat_1_8b_qlora_clip_vit_large_p14_336_lora_e1_gpu8_finetune"
LAST = "iter_36.pth"  # 9 batches in each of 4 epochs
HALF = "iter_16.pth"
SHORT = (
    "--prompt-template",
    "internlm2_chat",
    "--temperature",
    0,
    "--max-new-tokens",
    8,
    "--torch-dtype",
    "fp32",
)
COLOURS = [("blue", (20, 60, 200)), ("red", (200, 30, 30))]


@pytest.fixture
def here(tmp_path, llama_dir, tokenizer, monkeypatch):
    """The models, images in two colours with a question about each, and two rows of text."""
    dirs = save_llava(tmp_path, llama_dir, tokenizer)
    rows = [{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}] * 2
    for number in range(16):
        name, colour = COLOURS[number % 2]
        picture_file(tmp_path / f"{number}.png", colour)
        talk = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": name}]
        rows.append({"image": f"{number}.png", "conversations": talk})
    (tmp_path / "d.json").write_text(json.dumps(rows))
    write_tsv(tmp_path / "mmbench_dev_en.tsv", choice_rows(20, 4))
    monkeypatch.chdir(tmp_path)
    return dirs


def edited(run, recipe, dirs, **more) -> str:
    """The copy of a recipe, whose first part names the small models, the data and few iterations."""
    run("copy-cfg", recipe, ".")
    given = {
        "llm_name_or_path": str(dirs.llm),
        "visual_encoder_name_or_path": str(dirs.clip),
        "data_path": "d.json",
        "image_folder": ".",
        "evaluation_images": "1.png",
        "batch_size": 2,
        "dataloader_num_workers": 1,
        "max_epochs": 4,
        "save_steps": 4,
        "save_total_limit": -1,
        **more,
    }
    path = Path(f"{recipe}_copy.py")
    text = path.read_text()
    for name, value in given.items():
        text, count = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value!r}", text)
        assert count == 1, name
    path.write_text(text)
    return path.name


def train_with_kill(run, config) -> str:
    """The work dir of a run that is killed and resumed, and ends as one that is not."""
    whole, cut = f"{config}_whole", f"{config}_cut"
    run("train", config, "--work-dir", whole, "--seed", 0)
    words = ("train", config, "--work-dir", cut, "--seed", "0")
    killed.kill_when(Path(cut, HALF).exists, *words)
    assert not Path(cut, LAST).exists()
    command = [sys.executable, "-m", "xtuner", *words, "--resume"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"Resumed at iter \d+ of 36", done.stderr)
    ends = [load_checkpoint(f"{folder}/{LAST}")["state_dict"] for folder in (whole, cut)]
    start = load_checkpoint(f"{whole}/iter_4.pth")["state_dict"]
    assert ends[0].keys() == ends[1].keys() == start.keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert not any(torch.equal(ends[0][name], start[name]) for name in ends[0])
    return cut


def answers(run, *words) -> list[str]:
    return [
        run("chat", *words, "--image", f"{number}.png", *SHORT, script="What is it?\n\nEXIT\n\n").split(
            PROMPT
        )[1]
        for number in range(2)
    ]


def lines(work_dir) -> list[dict]:
    (file,) = Path().glob(f"{work_dir}/*/answers.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


CONVERT = """
from xtuner import cli
import xtuner.convert.llava
sys.addaudithook(kill_at)
cli.main(sys.argv[1:])
"""


def test_the_chain(here, run):
    """Weights are those without a kill, to the bit; no question of a benchmark is lost or asked twice."""
    first = train_with_kill(run, edited(run, STAGE_1, here))
    run("convert", "pth_to_hf", f"{STAGE_1}_copy.py", f"{first}/{LAST}", "projector_only")
    assert sorted(p.name for p in Path("projector_only").iterdir()) == [
        "README.md",
        "projector",
        "xtuner_config.py",
    ]
    encoder = ("--visual-encoder", here.clip)
    answers(run, here.llm, "--llava", "projector_only", *encoder)

    config = edited(run, STAGE_2, here, pretrained_pth=f"{first}/{LAST}")
    second = train_with_kill(run, config)
    for checkpoint in (HALF, LAST):  # the later one replaces the earlier
        run("convert", "pth_to_hf", config, f"{second}/{checkpoint}", "hf/xtuner")
    words = (
        "convert",
        "pth_to_hf",
        config,
        f"{second}/{LAST}",
        "hf/huggingface",
        "--save-format",
        "huggingface",
    )
    assert not killed.run(CONVERT, *words, at=12)
    assert sorted(os.listdir("hf")) == [".huggingface.lock", ".huggingface.part", "xtuner"]
    run(*words)
    run("convert", "pth_to_hf", config, f"{second}/{LAST}", "hf/official", "--save-format", "official")
    assert sorted(os.listdir("hf")) == ["huggingface", "official", "xtuner"]
    parts = (here.llm, "--llava", "hf/xtuner", *encoder)
    for model in (parts, ("hf/huggingface",), ("hf/official",)):
        assert answers(run, *model) == ["blue\n", "red\n"]

    bench = ("mmbench", *parts, "--data-path", "mmbench_dev_en.tsv", *SHORT[:2], "--torch-dtype", "fp32")
    run(*bench, "--work-dir", "whole")
    found: list[Path] = []

    def some_are_answered() -> bool:
        found[:] = Path().glob("cut/*/answers.jsonl")
        return any(file.read_bytes().count(b"\n") > 8 for file in found)

    killed.kill_when(some_are_answered, *bench, "--work-dir", "cut")
    count = found[0].read_bytes().count(b"\n")
    assert 8 < count < 80
    assert f"{count} of 80 questions are answered already" in run(*bench, "--work-dir", "cut", with_log=True)
    assert lines("cut") == lines("whole")
    assert len({line["index"] for line in lines("cut")}) == 80
