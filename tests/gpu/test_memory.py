"""What runs on a GPU take of its memory: what was estimated, and 7B in 8 GB."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.gpu.conftest import STANDS_IN
from tests.gpu.test_runs import train, write_config
from xtuner.config import load_config
from xtuner.estimate.forecast import forecast

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]
# As large as Llama 2 7B, and a model whose activations are most of its memory.
SEVEN_BILLION = dict(
    vocab_size=32_000,
    hidden_size=4096,
    intermediate_size=11_008,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    max_position_embeddings=4096,
)
WIDE = dict(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=8,
    num_attention_heads=16,
    num_key_value_heads=16,
    max_position_embeddings=8192,
)
if STANDS_IN:
    SEVEN_BILLION |= dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2)
    SEVEN_BILLION |= dict(num_key_value_heads=2)
    WIDE |= dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2)
    WIDE |= dict(num_key_value_heads=2)
# What the process of a GPU has beside the tensors.
CONTEXT = 600_000_000


@pytest.fixture
def peak():
    """Function: the bytes that were reserved since it was asked for; the test ends here without a GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()

    def measure() -> int:
        if not torch.cuda.is_available():
            pytest.skip("the run ended well; only a GPU has a peak to measure")
        return torch.cuda.max_memory_reserved() - before

    return measure


@pytest.mark.parametrize("way", ["False", "'selective'", "True", "'offload'"])
def test_a_run_takes_the_memory_that_was_estimated(way, saved, tmp_path, monkeypatch, record_property, peak):
    """To a tenth, of a model whose activations are most of it."""
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": "who are you", "output": "I am a small model " * 100}] * (8 if STANDS_IN else 200)
    config = write_config(tmp_path, saved("llama", **WIDE), "qlora", rows)
    options = ["max_length=8192", f"model.use_activation_checkpointing={way}", "max_epochs=1"]
    train(config, tmp_path / "w", *options)
    (copy,) = (tmp_path / "w").glob("my.py")
    need = forecast(load_config(copy)).memory.total
    record_property("estimated", f"{need / 1e9:.2f} GB")
    took = peak() + CONTEXT
    record_property("took", f"{took / 1e9:.2f} GB")
    assert 0.9 * need < took < 1.1 * need


def test_seven_billion_parameters_train_in_eight_gigabytes(
    tokenizer, tmp_path, monkeypatch, record_property, device
):
    """QLoRA of rank 64 at 2,048 tokens, in a process that gets no more; its files are of 16 bits."""
    monkeypatch.chdir(tmp_path)
    with device:
        config = LlamaConfig(**SEVEN_BILLION, dtype=torch.bfloat16)
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"instruction": "who are you", "output": "I am a small model " * 100}] * (8 if STANDS_IN else 40)
    config = write_config(tmp_path, tmp_path / "model", "qlora", rows)
    options = ["max_length=2048", "batch_size=1", "model.use_activation_checkpointing='offload'"]
    with at_most(8_000_000_000):
        assert train(config, tmp_path / "w", *options, "max_epochs=1")
        if torch.cuda.is_available():
            record_property("took", f"{(torch.cuda.max_memory_reserved() + CONTEXT) / 1e9:.2f} GB")


@contextlib.contextmanager
def at_most(count: int) -> Iterator[None]:
    """No more bytes of a GPU than these, with what the process has beside the tensors."""
    gc.collect()
    if not torch.cuda.is_available():
        yield
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((count - CONTEXT) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
