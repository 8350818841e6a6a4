"""Runs on a GPU: they learn, resume, convert, answer, and take the memory that was estimated."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.families.cell import command
from xtuner.config import load_config
from xtuner.estimate.forecast import forecast

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]
PAGED = pytest.param("bitsandbytes.optim.PagedAdamW32bit", marks=pytest.mark.no_stand_in)
ROWS = [{"instruction": f"who are you {i}", "output": f"I am a small model {i}"} for i in range(40)]
QUIET = ["evaluation_inputs=[]", "train_cfg.spike_ratio=1e6", "default_hooks.logger.interval=1"]
LARGE = dict(
    vocab_size=32_000,
    hidden_size=4096,
    intermediate_size=11_008,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    max_position_embeddings=4096,
)


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
    from xtuner.chat.session import make_session
    from xtuner.generation.generate import complete
    from xtuner.model.loading import load_for_chat
    from xtuner.utils import PROMPT_TEMPLATE

    llm, tokenizer = load_for_chat(model, adapter=adapter, dtype="bf16")
    prompt = make_session(tokenizer, PROMPT_TEMPLATE.default).ask("who are you 3", 8)
    return tokenizer.decode(complete(llm, tokenizer, prompt, max_new_tokens=8, temperature=0).ids)


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


@pytest.mark.no_stand_in
@pytest.mark.parametrize("way", ["False", "'selective'", "True", "'offload'"])
def test_a_run_takes_the_memory_that_was_estimated(way, saved, tmp_path, monkeypatch):
    """To a tenth, of a model whose activations are most of it."""
    monkeypatch.chdir(tmp_path)
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8}
    model = saved(
        "llama", **sizes, num_attention_heads=16, num_key_value_heads=16, max_position_embeddings=8192
    )
    rows = [{"instruction": "who are you", "output": "I am a small model " * 100}] * 200
    config = write_config(tmp_path, model, "qlora", rows)
    options = ["max_length=8192", f"model.use_activation_checkpointing={way}", "max_epochs=1"]
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    train(config, tmp_path / "w", *options)
    peak = torch.cuda.max_memory_reserved() - before
    (copy,) = (tmp_path / "w").glob("my.py")
    need = forecast(load_config(copy)).memory.total
    print(f"{way}: {peak / 1e9:.2f} GB, estimated {need / 1e9:.2f} GB", file=sys.stderr)
    assert 0.9 * need < peak + 600_000_000 < 1.1 * need


@pytest.mark.no_stand_in
def test_seven_billion_parameters_train_in_eight_gigabytes(tokenizer, tmp_path, monkeypatch):
    """QLoRA of rank 64 at 2,048 tokens, in a process that gets no more."""
    monkeypatch.chdir(tmp_path)
    with torch.device("cuda"):
        config = LlamaConfig(**LARGE, dtype=torch.bfloat16)
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"instruction": "who are you", "output": "I am a small model " * 100}] * 40
    config = write_config(tmp_path, tmp_path / "model", "qlora", rows)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(8e9 / total)
    try:
        options = ["max_length=2048", "batch_size=1", "model.use_activation_checkpointing='offload'"]
        lines = train(config, tmp_path / "w", *options, "max_epochs=1")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert lines
    print(f"peak {torch.cuda.max_memory_reserved() / 1e9:.2f} GB", file=sys.stderr)
