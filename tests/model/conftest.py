"""Tiny models, batches and tokenizers of the model tests."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest
import torch

SIZES = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture
def llama():
    """A random Llama with grouped heads in float64, where rounding cannot hide a mistake."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).double()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def batch():
    """Two rows of nine: samples of 4 and 5 tokens; one of 6 tokens and padding."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(3, 128, (2, 9), generator=generator)
    attention_mask = torch.ones(2, 9, dtype=torch.bool)
    attention_mask[1, 6:] = False
    labels = input_ids.masked_fill(~attention_mask, -100)
    labels[0, 5:7] = -100
    position_ids = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 0, 0, 0]])
    return {
        "input_ids": input_ids,
        "labels": labels,
        "attention_mask": attention_mask,
        "position_ids": position_ids,
        "cumulative_len": [
            torch.tensor([0, 4, 9], dtype=torch.int32),
            torch.tensor([0, 6], dtype=torch.int32),
        ],
        "max_seqlen": 6,
    }


@pytest.fixture
def items():
    """Two packs of pairs: (7, 5) and (4, 6), then (9, 8); the first tokens are the prompt."""
    generator = torch.Generator().manual_seed(3)
    return [pack_of(lengths, generator) for lengths in ((7, 5, 4, 6), (9, 8))]


def pack_of(lengths, generator):
    """A pack of random samples of these lengths; the first two tokens of each are not supervised."""
    ids = torch.randint(3, 128, (sum(lengths),), generator=generator).numpy()
    labels, boundaries = ids.copy(), [0]
    for length in lengths:
        labels[boundaries[-1] : boundaries[-1] + 2] = -100
        boundaries.append(boundaries[-1] + length)
    return {"input_ids": ids, "labels": labels, "cumulative_len": boundaries}


def _samples_of(batch):
    """(input_ids [1, T], labels [T]) of each sample of a batch."""
    for row, boundaries in enumerate(batch["cumulative_len"]):
        for start, end in zip(boundaries[:-1].tolist(), boundaries[1:].tolist(), strict=True):
            yield batch["input_ids"][row, None, start:end], batch["labels"][row, start:end]


@contextlib.contextmanager
def _stock_code(model):
    """A context in which every module of `model` runs its family's own code, norms in their input's dtype."""
    fused = {m: m.__dict__.pop("forward") for m in model.modules() if "forward" in m.__dict__}
    norms = {type(m) for m in model.modules() if type(m).__name__.endswith("RMSNorm")}
    with pytest.MonkeyPatch.context() as patch:
        for kind in norms:
            patch.setattr(kind, "forward", _exact_norm)
        yield
    for module, forward in fused.items():
        module.forward = forward


@pytest.fixture
def stock_code():
    return _stock_code


def _exact_norm(norm, x):
    return torch.nn.functional.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _naive_loss(model, batch):
    """Mean cross entropy over supervised tokens, each sample run alone through stock code."""
    total, count = 0.0, 0
    for input_ids, labels in _samples_of(batch):
        with _stock_code(model):
            logits = model(input_ids=input_ids, use_cache=False).logits[0, :-1]
        total = total + torch.nn.functional.cross_entropy(logits.double(), labels[1:], reduction="sum")
        count += int((labels[1:] != -100).sum())
    return total / count


@pytest.fixture
def naive_loss():
    return _naive_loss


def _gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture
def gradients():
    """A function that returns the gradients of a model by name."""
    return _gradients


def _relative_error(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture
def relative_error():
    return _relative_error


@pytest.fixture
def sizes():
    """Arguments of a tiny config of any Llama-shaped family."""
    return SIZES


TEXTS = [
    "You are a helpful assistant. Who are you? I am a small model.",
    "你是谁？我是一个小助手。请介绍一下你自己。今天天气怎么样？",
    "def add(a, b):\n    return a + b\n        x = 3\n",
    "  hello   world    foo\t\tbar",
]


def _train_sentencepiece(path: Path, **options) -> Path:
    """A small byte-pair sentencepiece file with byte fallback, as InternLM's are."""
    import sentencepiece

    out = io.BytesIO()
    defaults = {
        "vocab_size": 400,
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "hard_vocab_limit": False,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 30), model_writer=out, **{**defaults, **options}
    )
    path.write_bytes(out.getvalue())
    return path


@pytest.fixture(scope="session")
def train_sentencepiece():
    return _train_sentencepiece


@pytest.fixture(scope="session")
def internlm2_dir(tmp_path_factory) -> Path:
    """An InternLM2 folder as on the hub: `tokenizer.model`, and names of Python files (not there)."""
    import json

    from xtuner.model.internlm2 import InternLM2Config, InternLM2ForCausalLM

    folder = tmp_path_factory.mktemp("internlm2")
    _train_sentencepiece(
        folder / "tokenizer.model",
        add_dummy_prefix=False,
        user_defined_symbols=[f"[UNUSED_TOKEN_{i}]" for i in range(4)],
    )
    torch.manual_seed(0)
    config = InternLM2Config(**{**SIZES, "vocab_size": 400}, bias=False)
    InternLM2ForCausalLM(config).save_pretrained(folder)
    config_file = folder / "config.json"
    fields = json.loads(config_file.read_text())
    fields["auto_map"] = {
        "AutoConfig": "configuration_internlm2.InternLM2Config",
        "AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM",
    }
    config_file.write_text(json.dumps(fields))
    return folder


def assert_splits_alike(model, collate, items, num_items, gradients):
    """Batches of one item give in sum what one batch of all gives; `num_items` divides each loss."""
    whole = model(collate(items)["data"], num_items=num_items)
    whole["loss"].backward()
    expected = gradients(model.llm)
    model.zero_grad()
    parts = [model(collate([item])["data"], num_items=num_items) for item in items]
    for part in parts:
        part["loss"].backward()
    assert sum(part["loss"].item() for part in parts) == pytest.approx(whole["loss"].item(), rel=1e-11)
    for name in model.metrics:
        added = sum(part["sums"][name].item() for part in parts)
        assert added == pytest.approx(whole["sums"][name].item(), rel=1e-11)
    for name, grad in gradients(model.llm).items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-9, atol=1e-12)
