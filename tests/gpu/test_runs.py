"""Runs on a GPU: they learn, resume, convert, answer and serve."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.families.cell import command
from xtuner.chat.session import make_session
from xtuner.generation.generate import complete
from xtuner.model.loading import load_for_chat
from xtuner.utils import PROMPT_TEMPLATE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]
PAGED = pytest.param("bitsandbytes.optim.PagedAdamW32bit", marks=pytest.mark.no_stand_in)
ROWS = [{"instruction": f"who are you {i}", "output": f"I am a small model {i}"} for i in range(40)]
QUIET = ["evaluation_inputs=[]", "train_cfg.spike_ratio=1e6", "default_hooks.logger.interval=1"]


def write_config(folder: Path, model: Path, method: str, rows: list[dict] = ROWS) -> Path:
    """The path of a config that `new-cfg` writes in `folder`."""
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    config = folder / "my.py"
    command("new-cfg", "--model", model, "--data", folder / "rows.json", "--method", method, "--out", config)
    return config


def train(config: Path, work_dir: Path, *options: str, resume: bool = False) -> list[dict]:
    """The logged numbers of a run."""
    words = ["--resume"] if resume else []
    command("train", config, "--work-dir", work_dir, "--seed", 0, *words, "--cfg-options", *QUIET, *options)
    newest = max(work_dir.glob("*/vis_data/scalars.json"), key=lambda path: path.stat().st_mtime)
    return [line for line in map(json.loads, newest.read_text().splitlines()) if "loss" in line]


PRECISIONS = [
    ("full", "bfloat16", 1e-3),
    pytest.param("full", "float16", 1e-3, marks=pytest.mark.no_stand_in),
    ("lora", "bfloat16", 1e-2),
    ("qlora", "bfloat16", 1e-2),
    pytest.param("qlora", "float16", 1e-2, marks=pytest.mark.no_stand_in),
]


@pytest.mark.parametrize(("method", "dtype", "rate"), PRECISIONS)
def test_a_run_learns_resumes_and_answers(method, dtype, rate, llama_dir, tmp_path, monkeypatch):
    """With fp16 the scaler skips updates that overflow, never all."""
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path, llama_dir, method)
    options = [f"lr={rate}", "max_epochs=12", "save_steps=10", f"optim_wrapper.dtype='{dtype}'"]
    losses = [line["loss"] for line in train(config, tmp_path / "whole", *options)]
    assert losses[-1] < 0.85 * losses[0]
    saved = sorted((tmp_path / "whole").glob("iter_*.pth"), key=lambda path: int(path.stem[5:]))
    again = tmp_path / "again"
    again.mkdir()
    (again / saved[0].name).symlink_to(saved[0])
    resumed = [line["loss"] for line in train(config, again, *options, resume=True)]
    assert resumed == pytest.approx(losses[-len(resumed) :], rel=0.02)
    command("convert", "pth_to_hf", config, saved[-1], tmp_path / "hf")
    assert answer(tmp_path / "hf", None) if method == "full" else answer(llama_dir, tmp_path / "hf")


def answer(model: Path, adapter: Path | None) -> str:
    """What chat answers to a question of the rows, at most 8 tokens."""
    llm, tokenizer = load_for_chat(model, adapter=adapter, dtype="bf16")
    return answer_of(llm, tokenizer, PROMPT_TEMPLATE.default, "who are you 3")


def answer_of(llm, tokenizer, template, question: str) -> str:
    prompt = make_session(tokenizer, template).ask(question, 8)
    ids = complete(llm, tokenizer, prompt, max_new_tokens=8, temperature=0).ids
    return tokenizer.decode(ids, skip_special_tokens=True)


def test_a_served_model_answers_as_in_chat(llama_dir):
    pytest.importorskip("fastapi", reason="xtuner[serve] is not installed")
    httpx = pytest.importorskip("httpx")
    from tests.chat.server.test_http import running

    llm, tokenizer = load_for_chat(llama_dir, dtype="bf16")
    with running(llm, tokenizer) as ((host, port), _):
        wanted = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "temperature": 0}
        response = httpx.post(f"http://{host}:{port}/v1/chat/completions", json={"model": "tiny", **wanted})
    found = response.json()["choices"][0]["message"]["content"]
    assert found == answer_of(llm, tokenizer, PROMPT_TEMPLATE.internlm2_chat, "hello")


@pytest.mark.parametrize("optimizer", ["torch.optim.AdamW", "bitsandbytes.optim.AdamW8bit", PAGED])
def test_every_optimizer_of_the_recipes_runs(optimizer, llama_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path, llama_dir, "lora")
    losses = train(config, tmp_path / "w", f"optim_wrapper.optimizer.type={optimizer}", "max_epochs=2")
    assert all(torch.isfinite(torch.tensor(line["loss"])) for line in losses)


@pytest.mark.filterwarnings("ignore")  # of torch's own compiler
def test_compiled_layers_train_alike(llama_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path, llama_dir, "lora")
    options = ["max_epochs=2", "model.lora.lora_dropout=0.0", "model.use_activation_checkpointing=False"]
    plain, compiled = (
        [line["loss"] for line in train(config, tmp_path / name, *options, f"compile={name}")]
        for name in ("False", "True")
    )
    assert compiled == pytest.approx(plain, rel=0.02)
