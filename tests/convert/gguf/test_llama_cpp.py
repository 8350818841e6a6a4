"""K-quants in the program they are for: llama.cpp, by xllamacpp."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("gguf", reason="xtuner[gguf] is not installed: make quantised")
xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: make quantised")

import gguf
from transformers import AutoModelForCausalLM

from xtuner.convert.gguf import tensor_types, to_gguf
from xtuner.convert.gguf.check import config_of_file
from xtuner.convert.quality import prompt_ids
from xtuner.model.loading import load_config

pytestmark = pytest.mark.filterwarnings("ignore")

# The largest difference of log-probabilities: llama.cpp rounds the inputs of products to 8 bits too.
APART = {"f16": 0.02, "q8_0": 0.1, "q6_k": 0.1, "q5_k_m": 0.1, "q4_k_m": 0.1, "q4_k_s": 0.1, "q3_k_m": 0.2}


@pytest.fixture(scope="module")
def folder(saved):
    """A Qwen3 with rows of 256, so that all K-quants are used."""
    sizes = {"hidden_size": 256, "num_hidden_layers": 4, "head_dim": 64, "intermediate_size": 512}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    return saved("qwen3", **sizes, **ends, initializer_range=0.05)


def by_transformers(path, folder):
    read = config_of_file(path, load_config(folder), set())
    more = {"gguf_file": path.name, "config": read, "dtype": torch.float32}
    return AutoModelForCausalLM.from_pretrained(path.parent, **more).eval()


def serve(path):
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 512, 1, 1
    params.n_gpu_layers, params.warmup = 0, False
    return xllamacpp.Server(params)


@pytest.fixture(scope="module")
def broken(tokenizer):
    """Tokens that are no whole letters, and marks: the server holds back what it makes of such."""
    special = set(tokenizer.all_special_ids)
    return [
        n
        for n in range(len(tokenizer))
        if n in special or not tokenizer.decode([n]).isprintable() or "\ufffd" in tokenizer.decode([n])
    ]


def answer(server, ids, count, broken, probabilities=1):
    """The greedy tokens after `ids`, and what llama.cpp thought of the first: id -> log-probability."""
    asked = {"prompt": ids, "n_predict": count, "temperature": 0, "ignore_eos": True}
    asked["logit_bias"] = [[token, False] for token in broken]
    (choice,) = server.handle_completions({**asked, "n_probs": probabilities})["choices"]
    content = choice["logprobs"]["content"]
    first = {entry["id"]: entry["logprob"] for entry in content[0]["top_logprobs"]}
    return [entry["id"] for entry in content], first


@pytest.mark.parametrize("kind", APART)
def test_llama_cpp_answers_as_the_file_says(kind, folder, broken, tmp_path):
    """Probabilities are those of the same file in transformers; each token that llama.cpp chooses is the best
    there, or as good but for what its rounding of inputs changes."""
    path = to_gguf(folder, tmp_path / "x.gguf", kind=kind)
    model = by_transformers(path, folder)
    ids = prompt_ids(model.config.vocab_size)[0].tolist()
    server = serve(path)
    tokens, first = answer(server, ids, 6, broken, probabilities=model.config.vocab_size)
    with torch.no_grad():
        logits = model(torch.tensor([ids + tokens])).logits[0, len(ids) - 1 : -1]
    wanted = logits[0].log_softmax(-1)
    assert len(first) > 100
    assert max(abs(wanted[token].item() - value) for token, value in first.items()) < APART[kind]
    logits[:, broken] = -torch.inf
    lost = logits.amax(-1) - logits[torch.arange(len(tokens)), torch.tensor(tokens)]
    assert lost.max().item() < 2 * APART[kind]
    assert len(tokens) == 6


def test_perplexity_of_llama_cpp_is_that_of_transformers(folder, broken, tmp_path):
    """Token by token, of what llama.cpp gave each next one."""
    path = to_gguf(folder, tmp_path / "x.gguf", kind="q4_k_m")
    model, server = by_transformers(path, folder), serve(path)
    ids = (torch.arange(24) * 31 % model.config.vocab_size).tolist()
    given = [
        answer(server, ids[:end], 1, broken, probabilities=model.config.vocab_size)[1][ids[end]]
        for end in range(1, len(ids))
    ]
    with torch.no_grad():
        wanted = model(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()
    assert -math.fsum(given) / len(given) == pytest.approx(wanted, rel=0.005)


def test_what_is_stored_is_what_the_package_gguf_makes_of_it(folder, tmp_path):
    """Types that the package gguf can write are the same bytes; those that it reads are near the weights."""
    torch.manual_seed(0)
    weight = torch.randn(4, 512)
    for name in ("Q4_0", "Q5_0", "Q5_1"):
        kind = gguf.GGMLQuantizationType[name]
        ours = tensor_types.stored(gguf, "x", weight, kind)
        assert (ours == gguf.quants.quantize(weight.numpy(), kind)).all()
    errors = []
    for name in ("Q3_K", "Q4_K", "Q5_K", "Q6_K"):
        kind = gguf.GGMLQuantizationType[name]
        back = gguf.quants.dequantize(tensor_types.stored(gguf, "x", weight, kind), kind)
        errors.append((torch.from_numpy(back) - weight).square().mean().sqrt().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.2
    assert errors[-1] < 0.02


def test_rows_that_are_no_multiple_of_256_are_told(saved, tmp_path, caplog):
    path = to_gguf(saved("llama", hidden_size=256, intermediate_size=320), tmp_path / "x.gguf", kind="q4_k_m")
    assert "2 matrices have rows that are no multiple of 256, and are larger than q4_k_m: Q5_0" in caplog.text
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    assert kinds["blk.0.ffn_down.weight"] == "Q5_0"


def test_interrupted_files_leave_nothing(folder, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tensor_types, "stored", stop)
    with pytest.raises(KeyboardInterrupt):
        to_gguf(folder, tmp_path / "x.gguf", kind="q4_k_m")
    assert not list(tmp_path.glob("*.gguf")) + list(tmp_path.glob(".*.part"))
