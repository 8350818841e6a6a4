"""A training step never waits for the device: it runs on `meta`, where no value of a tensor can be read."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from peft import LoraConfig
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from xtuner.dataset.collate_fns import flat_collate_fn
from xtuner.dataset.collate_fns.preference_collate_fn import preference_collate_fn
from xtuner.model import SupervisedFinetune, attention_kernels, flex, kernels
from xtuner.model.dpo import DPO

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

SIZES = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
KINDS = {
    "llama": {},
    "mistral": {"sliding_window": 4},
    "qwen3": {"head_dim": 16},
    "gemma2": {"sliding_window": 4, "head_dim": 16},
    "internlm2": {},
    "bloom": {"n_layer": 2, "n_head": 4},
    "falcon": {"num_kv_heads": 1},
    "mpt": {"n_layers": 2, "n_heads": 4, "d_model": 64},
}


def on_meta(family, **changes):
    """A small model without values."""
    config = AutoConfig.for_model(family, **{**SIZES, **KINDS[family], **changes})
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.fixture
def items():
    return two_packs()


def two_packs():
    """Two packs: samples of 9, 5 and 3 tokens, and of 7."""
    packs = []
    for boundaries in ([0, 9, 14], [0, 3, 10]):
        ids = np.arange(3, 3 + boundaries[-1])
        labels = ids.copy()
        labels[:2] = -100
        packs.append({"input_ids": ids, "labels": labels, "cumulative_len": boundaries})
    return packs


def step(model, data):
    """Forward and backward; returns the parameters with a gradient."""
    data = {n: v.to("meta") if isinstance(v, torch.Tensor) else v for n, v in data.items()}
    outputs = model.train()(data, num_items=model.num_items(data))
    outputs["loss"].backward()
    assert outputs["loss"].is_meta
    return [name for name, parameter in model.named_parameters() if parameter.grad is not None]


def test_meta_refuses_to_tell_values():
    """What this file relies on."""
    tensor = torch.zeros(3, device="meta")
    for read in (tensor.tolist, tensor.nonzero, tensor.sum().item, lambda: bool(tensor.sum() > 0)):
        with pytest.raises((RuntimeError, NotImplementedError)):
            read()


@pytest.mark.parametrize("lora", [None, LoraConfig(r=4, target_modules="all-linear")], ids=["full", "lora"])
@pytest.mark.parametrize("family", KINDS)
def test_supervised_fine_tuning(family, lora, items):
    model = SupervisedFinetune(on_meta(family), lora=lora, use_activation_checkpointing=False)
    assert step(model, flat_collate_fn(items)["data"])


class Inputs(TorchDispatchMode):
    """How often each kernel was called, and those given a tensor that they copy before they read it."""

    def __init__(self):
        super().__init__()
        self.calls, self.copied = Counter(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "xtuner":
            name = func.__name__.partition(".")[0]
            self.calls[name] += 1
            # Angles are read by their strides.
            read = [x for x in args if isinstance(x, torch.Tensor)][: 2 if name == "rotate" else None]
            self.copied |= {name for x in read if not x.is_contiguous()}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
def test_kernels_find_their_inputs_as_they_read_them(family, items, monkeypatch):
    """On a GPU with LoRA: how many kernels of each kind a layer starts, without a copy in one of them."""
    pytest.importorskip("triton")
    kernel = attention_kernels.Kernel(lambda call: True, lambda call: Flash.apply(*call.rows())[None])
    monkeypatch.setattr(attention_kernels, "KERNELS", (kernel,))
    calls, lora = [], LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.1)
    for layers in (2, 3):
        llm = on_meta(family, num_hidden_layers=layers)
        model = SupervisedFinetune(llm, lora=lora, use_activation_checkpointing=False)
        with kernels.assume_gpu(), Inputs() as seen:
            step(model, flat_collate_fn(items)["data"])
        assert seen.copied == set()
        calls.append(seen.calls)
    norms = 4 if family == "qwen3" else 2  # of queries and keys too
    assert calls[1] - calls[0] == {
        "rms_norm": norms,
        "rms_norm_backward": norms,
        "rotate": 2,
        "masked": 6,  # queries, keys and values share one, gate and up too: forward and backward
        "mask_": 3,
        "silu_product": 1,
        "dropped_silu_product_backward_": 1,
    }


class Flash(torch.autograd.Function):
    """Shapes and layouts of FlashAttention."""

    @staticmethod
    def forward(ctx, query, key, value):
        ctx.save_for_backward(query, key, value)
        return torch.empty_like(query)

    @staticmethod
    def backward(ctx, grad):
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors)


@pytest.mark.parametrize("family", ["llama", "bloom", "falcon", "mpt"])
def test_recomputation(family, items):
    model = SupervisedFinetune(on_meta(family), use_activation_checkpointing=True)
    assert step(model, flat_collate_fn(items)["data"])


LIMITS = {
    "plain": {},
    "dropout": {"dropout": 0.1},
    "window": {"window": 3},
    "soft cap": {"softcap": 2.0},
    "sinks": {"sinks": True},
    "bias": {"key_bias": True},
    "bias and dropout": {"key_bias": True, "dropout": 0.1},
}


def call_of(limits, boundaries=(0, 3, 130, 200)):
    """A call without values, of heads that share keys."""
    query, key, value = (torch.randn(1, heads, 200, 8, dtype=torch.bfloat16) for heads in (4, 2, 2))
    tensors = {"sinks": torch.randn(4), "key_bias": torch.randn(4, 200)}
    given = {name: tensors.get(name, limit) for name, limit in limits.items()}
    starts = torch.tensor(boundaries, dtype=torch.int32)
    return attention_kernels.Call(query, key, value, starts, list(boundaries), 127, **given)


@pytest.fixture
def no_values(monkeypatch):
    """Packages that are not here have their shapes; no block mask stays for tests with values."""
    from torch.nn.attention.flex_attention import flex_attention

    def flash(query, key, value, *args, **kwargs):
        return Flash.apply(query, key, value)

    monkeypatch.setattr(attention_kernels, "_flash_function", lambda package: flash)
    monkeypatch.setattr(flex, "_compiled", lambda: flex_attention)
    flex._block_mask.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        with pytest.raises(DataDependentOutputException):
            torch.zeros(3).tolist()
        yield
    flex._block_mask.cache_clear()


@pytest.mark.parametrize("number", range(len(attention_kernels.KERNELS)))
@pytest.mark.filterwarnings("ignore:.*called without torch.compile:UserWarning")
def test_no_kernel_of_attention_reads_a_value(number, no_values):
    """Nor for chunks, which are cut on the host."""
    run = attention_kernels.KERNELS[number].run
    if run is attention_kernels._blocks:
        pytest.skip("a CPU waits for no one")
    for call in (call_of({}), call_of({}).in_chunks(50)):
        assert run(call).shape == (1, 200, 4, 8)


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.filterwarnings("ignore:.*called without torch.compile:UserWarning")
def test_a_call_of_any_kind_reads_no_value(limits, no_values):
    """By the kernel that runs everything, with its gradients; without dropout by FlexAttention too."""
    call = call_of(LIMITS[limits])
    if not call.dropout:
        assert attention_kernels._flex(call).shape == (1, 200, 4, 8)
    call.query.requires_grad_()
    attention_kernels._by_run(call).sum().backward()
    assert call.query.grad is not None


def test_preferences(items):
    model = DPO(on_meta("llama"), lora=LoraConfig(r=4), use_activation_checkpointing=False)
    assert step(model, preference_collate_fn(items)["data"])
