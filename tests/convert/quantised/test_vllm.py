"""Folders of `convert merge` and `convert quantize` answer in vLLM on a CPU as in transformers."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from xtuner.convert.merge import merge
from xtuner.convert.quantised import quantize

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make vllm"),
]
PROMPT = list(range(5, 25))


@pytest.fixture(scope="module")
def base(saved):
    """A Qwen3 with heads that vLLM's attention has."""
    sizes = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 64}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    return saved("qwen3", **sizes, intermediate_size=512, **ends, initializer_range=0.1)


def by_vllm(folder, dtype):
    script = Path(__file__).with_name("vllm_answers.py")
    words = [sys.executable, str(script), str(folder), dtype, json.dumps(PROMPT)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def by_transformers(folder, dtype, answer):
    """Log-probabilities of all tokens at each place of the answer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    with torch.no_grad():
        logits = model(torch.tensor([PROMPT + answer])).logits[0, len(PROMPT) - 1 : -1]
    return logits.float().log_softmax(-1)


# vLLM's kernels round the inputs of int8, and compute w4a16 in 16 bits only.
@pytest.mark.parametrize(
    ("form", "dtype", "apart"),
    [
        ("merged", "float32", 1e-3),
        ("fp8", "float32", 1e-3),
        ("int8", "float32", 0.3),
        ("w4a16", "bfloat16", 0.2),
    ],
)
def test_the_greedy_answer_is_that_of_transformers(base, make_adapter, tmp_path, form, dtype, apart):
    """Each token is the likeliest one, to the rounding of the format, and its log-probability is the same."""
    folder = tmp_path / form
    if form == "merged":
        merge(base, make_adapter(base)[1], folder)
    else:
        pytest.importorskip("compressed_tensors")
        quantize(base, folder, form, check=False)
    found = by_vllm(folder, dtype)
    expected = by_transformers(folder, dtype, found["ids"])
    chosen = expected.gather(1, torch.tensor(found["ids"])[:, None])[:, 0]
    assert (chosen - torch.tensor(found["logprobs"])).abs().max() < apart
    assert (expected.max(-1).values - chosen).max() < apart
