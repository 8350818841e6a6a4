"""Whole models: the fused layers against the families' own code and peft's."""

import copy

import pytest
import torch
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForCausalLM

from tests.families.configs import make, make_config
from xtuner.families import family_of
from xtuner.generation.cached_forward import CachedForward
from xtuner.model import SupervisedFinetune, loading
from xtuner.model.fused.layers import fuse, unfuse
from xtuner.model.lora import apply_lora

FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": 3},
    "qwen2": {},
    "qwen3": {"head_dim": 32},
    "qwen3_moe": {"head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "internlm2": {},
}
TARGETS = {
    "internlm2": ["wqkv", "wo", "w1", "w3", "w2"],
    "others": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


def tiny(family, sizes, dtype=torch.float64):
    loading.register_families()
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**sizes, **FAMILIES[family]})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="xtuner").to(dtype)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
    if "moe" in family:  # torch's product of groups does not know float64
        model.set_experts_implementation("eager")
    return model


def with_lora(model, family, **kwargs):
    targets = TARGETS.get(family, TARGETS["others"])
    torch.manual_seed(1)
    cfg = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", **kwargs)
    model = apply_lora(model, cfg)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, dtype=parameter.dtype) * 0.1
    return model


@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_the_familys_own_code(
    family, adapter, sizes, batch, naive_loss, gradients, relative_error
):
    """In float64, every parameter that is trained, packed samples against each sample alone."""
    reference = tiny(family, sizes)
    if adapter:
        reference = with_lora(reference, family).double()
    model = SupervisedFinetune(copy.deepcopy(reference), use_activation_checkpointing=False).train()
    assert fuse(model.llm) >= 7
    ours, theirs = model(batch)["loss"], naive_loss(reference, batch)
    ours.backward()
    theirs.backward()
    assert abs(ours - theirs) < 1e-12 * theirs
    found, wanted = gradients(model.llm), gradients(reference)
    assert found.keys() == wanted.keys()
    assert len(wanted) >= 10
    # The families' own rotary code computes in fp32.
    assert max(relative_error(found[name], wanted[name]) for name in wanted) < 1e-10


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen2_5_omni_thinker"])
def test_gated_blocks_of_models_that_see_are_their_own(family, relative_error):
    """Output and gradients of the block alone, in float64."""
    row = row_of(family)
    block = next(m for m in make(family, None).modules() if path_of(m) == row.fused.mlp).double().train()
    found = []
    for function in (block, copy.deepcopy(block)):
        if function is not block:
            assert fuse(function) == 1
        x = torch.linspace(-3, 3, 5 * block.hidden_size, dtype=torch.float64).view(5, -1).requires_grad_()
        y = function(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, *function.parameters()])])
    for ours, theirs in zip(*found, strict=True):
        assert relative_error(ours, theirs) < 1e-12


def row_of(family):
    return family_of(make_config(family).to_dict())


def path_of(module):
    return f"{type(module).__module__}.{type(module).__qualname__}"


def test_recomputed_layers_draw_the_same_dropout_masks(sizes, batch, gradients):
    """Gradients with dropout are the same bits whether activations are kept or computed again."""
    found = []
    for recompute in (False, True):
        llm = with_lora(tiny("llama", sizes, torch.float32), "llama", lora_dropout=0.3)
        model = SupervisedFinetune(llm, use_activation_checkpointing=recompute).train()
        torch.manual_seed(5)
        model(batch)["loss"].backward()
        found.append(gradients(model.llm))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_outside_training_every_layer_runs_its_own_code(sizes, monkeypatch):
    """Generation, with its cache, and merged or switched-off adapters are left to transformers and peft."""
    llm = with_lora(tiny("llama", sizes, torch.float32), "llama")
    ids = torch.arange(3, 9)[None]
    wanted = llm.eval()(ids).logits
    generated = llm.generate(input_ids=ids, max_new_tokens=4, do_sample=False)
    with llm.disable_adapter():
        base = llm(ids).logits
    fuse(llm)
    assert torch.equal(llm(ids).logits, wanted)
    assert torch.equal(llm.generate(input_ids=ids, max_new_tokens=4, do_sample=False), generated)
    with llm.disable_adapter():
        assert torch.equal(llm(ids).logits, base)
        torch.testing.assert_close(llm.train()(ids).logits, base)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_is_used_while_the_model_trains(family, sizes):
    """Rollouts and dialogues from a model in training mode read a row in two parts as in one."""
    llm = tiny(family, sizes, torch.float32).train()
    fuse(llm)
    ids, forward = torch.arange(3, 9)[None], CachedForward(llm)
    whole, _ = forward({"input_ids": ids}, None)
    _, cache = forward({"input_ids": ids[:, :4]}, None)
    torch.testing.assert_close(forward({"input_ids": ids[:, 4:]}, cache)[0], whole)


def test_a_deep_copy_is_bound_to_itself_and_unfuse_gives_the_own_code_back(sizes):
    """A copy with other weights gives another result; afterwards no module has a forward of its own."""
    llm = tiny("llama", sizes).train()
    fuse(llm)
    other = copy.deepcopy(llm)
    other.model.layers[0].mlp.up_proj.weight.data.zero_()
    ids = torch.arange(3, 9)[None]
    assert not torch.allclose(other(ids).logits, llm(ids).logits)
    unfuse(llm)
    assert not any("forward" in module.__dict__ for module in llm.modules())


def test_under_autocast_the_layers_compute_in_16_bits(sizes, batch):
    """fp32 weights, bf16 products: the loss is near the fp32 loss and gradients come back in fp32."""
    model = SupervisedFinetune(
        tiny("llama", sizes, torch.float32), use_activation_checkpointing=False
    ).train()
    exact = model(batch)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(batch)["loss"]
    loss.backward()
    assert 0 < abs(loss - exact) < 0.02 * exact
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
