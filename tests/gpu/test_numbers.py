"""Losses and gradients on a GPU are those of stock code in float64 on a CPU, to rounding."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from tests.model.conftest import _samples_of as samples_of
from tests.model.test_quantized import config, dequantised
from xtuner.model import SupervisedFinetune

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]

# Relative errors of the loss and of the gradients of all adapters together.
BOUNDS = {torch.float32: (1e-4, 1e-3), torch.bfloat16: (0.02, 0.05), torch.float16: (0.005, 0.02)}
FAMILIES = {
    "llama": {},
    "qwen3": {"head_dim": 16},
    "internlm2": {},
    "mistral": {"sliding_window": 3},  # a window
    "gemma2": {"head_dim": 16, "sliding_window": 3},  # and a soft cap
    "gpt_oss": {
        "head_dim": 16,
        "sliding_window": 3,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },  # and sinks
    "qwen3_moe": {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
}


def make_model(folder, dtype, bits=None, **options):
    """A model on the device in `dtype` with adapters that do something."""
    torch.manual_seed(0)
    llm = config(folder, bits, dtype)
    if bits is None:
        del llm["quantization_config"]
    adapter = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear")
    model = SupervisedFinetune(llm, lora=adapter, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def step(model, batch):
    """The loss and the gradients of the adapters in one row."""
    model.zero_grad()
    loss = model(batch)["loss"]
    loss.backward()
    return loss.item(), flat(model)


def flat(model):
    return torch.cat([p.grad.double().cpu().flatten() for p in model.parameters() if p.grad is not None])


def stock_step(model, batch):
    """The same by stock code in float64 on a CPU, each sample alone."""
    llm = copy.deepcopy(model.llm).to("cpu", torch.float64)
    llm.zero_grad()
    for module in llm.modules():
        module.__dict__.pop("forward", None)  # those of xtuner/model/fused
    llm.set_attn_implementation("eager")
    llm.config._experts_implementation = "eager"
    count = sum(int((labels[1:] != -100).sum()) for _, labels in samples_of(batch))
    loss = torch.zeros(())
    for input_ids, labels in samples_of(batch):
        logits = llm(input_ids=input_ids, use_cache=False).logits[0, :-1]
        loss = loss + torch.nn.functional.cross_entropy(logits, labels[1:], reduction="sum") / count
    loss.backward()
    return loss.item(), flat(llm)


def assert_close(ours, theirs, dtype):
    (loss, gradients), (stock_loss, stock_gradients) = ours, theirs
    loss_bound, bound = BOUNDS[dtype]
    assert abs(loss - stock_loss) <= loss_bound * stock_loss
    error = ((gradients - stock_gradients).norm() / stock_gradients.norm()).item()
    assert error <= bound, f"gradients differ by {error:.2g} of their size"


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_samples_are_trained_as_each_alone(family, dtype, saved, batch, on_device):
    model = make_model(saved(family, **FAMILIES[family]), dtype, use_activation_checkpointing=False)
    assert_close(step(model, on_device), stock_step(model, batch), dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_weights_train_as_what_they_stand_for(llama_dir, bits, dtype, batch, on_device):
    model = make_model(llama_dir, dtype, bits, use_activation_checkpointing=False)
    expected = stock_step(dequantised(model), batch)  # a forward pass of 8 bits changes its layers
    assert_close(step(model, on_device), expected, dtype)


@pytest.mark.parametrize("way", ["selective", "full", "offload"])
@pytest.mark.parametrize("bits", [None, 4])
def test_recomputed_gradients_are_those_of_kept_activations(llama_dir, bits, way, on_device):
    expected = step(
        make_model(llama_dir, torch.bfloat16, bits, use_activation_checkpointing=False), on_device
    )
    model = make_model(llama_dir, torch.bfloat16, bits, use_activation_checkpointing=way)
    assert_close(step(model, on_device), expected, torch.bfloat16)


def test_an_embedding_on_the_host_changes_nothing(llama_dir, on_device):
    """It waits there with `offload`, and its rows travel."""
    model = make_model(llama_dir, torch.bfloat16, use_activation_checkpointing="offload")
    assert model.llm.get_input_embeddings().weight.device.type == "cpu"
    expected = step(make_model(llama_dir, torch.bfloat16, use_activation_checkpointing=False), on_device)
    assert_close(step(model, on_device), expected, torch.bfloat16)


def test_a_generation_between_two_steps_changes_nothing(llama_dir, on_device):
    model = make_model(llama_dir, torch.bfloat16, 4, use_activation_checkpointing=False)
    expected = step(model, on_device)
    model.eval().llm.generate(input_ids=on_device["input_ids"][:, :4], max_new_tokens=3, do_sample=False)
    assert_close(step(model.train(), on_device), expected, torch.bfloat16)


@pytest.mark.no_stand_in
def test_forward_and_backward_never_wait_for_the_gpu(llama_dir, batch):
    """Of a batch on the host, as a loader leaves it."""
    model = make_model(llama_dir, torch.bfloat16, 4, use_activation_checkpointing=False)
    count = model.num_items(batch)
    model(batch, num_items=count)["loss"].backward()  # kernels are compiled at first
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(batch, num_items=count)["loss"].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_model_on_the_gpu_is_what_transformers_loads(llama_dir, device):
    """Logits of the model that `load_for_chat` gives, in 16 bits, against stock fp32 on a CPU."""
    from xtuner.model.loading import load_for_chat

    ids = torch.arange(5, 45)[None]
    stock = AutoModelForCausalLM.from_pretrained(llama_dir, dtype=torch.float32)(ids).logits
    model, _ = load_for_chat(llama_dir, dtype="bf16")
    with torch.no_grad():
        found = model(ids.to(device)).logits.float().cpu()
    assert ((found - stock).norm() / stock.norm()).item() < 0.02
