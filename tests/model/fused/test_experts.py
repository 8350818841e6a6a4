"""Adapters of packed experts: the low-rank path against the plain sum of weights, and against peft's."""

import contextlib
import copy

import pytest
import torch
from peft import LoraConfig

from tests import moe
from xtuner.model import SupervisedFinetune
from xtuner.model.fused import experts, fuse, unfuse
from xtuner.model.fused.experts import adapted_experts, is_experts, is_on_parameter
from xtuner.model.lora import apply_lora

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
# Gated, gated by pairs of columns with biases and [in, out] matrices, not gated.
FAMILIES = ["qwen3_moe", "gpt_oss", "nemotron_h"]


def with_adapter(family, dtype=torch.float64, **lora):
    model = apply_lora(moe.make(family, dtype), LoraConfig(r=4, lora_alpha=6, **lora)).to(dtype)
    return moe.randomise(model, 0.1)


def wrapper_of(model):
    """The outermost adapter of the first experts."""
    return next(module for module in model.modules() if is_on_parameter(module))


def matrices(wrapper):
    """W + s B A of each expert as [E, out, in], by the names of the parameters, from peft's own weights."""
    base, found = wrapper.get_base_layer(), {}
    while is_on_parameter(wrapper):
        a, b = wrapper.lora_A["default"].weight, wrapper.lora_B["default"].weight
        a, b = a.view(4, -1, a.shape[1]), b.view(len(b), -1, 4)
        deltas = torch.stack([b[:, :, e] @ a[e] for e in range(4)]) * wrapper.scaling["default"]
        weight = getattr(base, wrapper.parameter_name)
        found[wrapper.parameter_name] = (weight.mT if base.is_transposed else weight) + deltas
        wrapper = wrapper.base_layer
    return found


def one_token_at_a_time(wrapper, x, chosen, weights):
    """The output by definition."""
    base, w = wrapper.get_base_layer(), matrices(wrapper)
    first = "gate_up_proj" if base.has_gate else "up_proj"
    rows = []
    for token, own, shares in zip(x, chosen.tolist(), weights, strict=True):
        total = torch.zeros_like(token)
        for e, share in zip(own, shares, strict=True):
            hidden = w[first][e] @ token + (getattr(base, f"{first}_bias")[e] if base.has_bias else 0)
            hidden = base._apply_gate(hidden) if base.has_gate else base.act_fn(hidden)
            total = total + share * (
                w["down_proj"][e] @ hidden + (base.down_proj_bias[e] if base.has_bias else 0)
            )
        rows.append(total)
    return torch.stack(rows)


def inputs(width, dtype=torch.float64):
    torch.manual_seed(3)
    x = torch.randn(7, width, dtype=dtype, requires_grad=True)
    chosen = torch.tensor([[0, 1], [3, 0], [1, 3], [0, 3], [1, 0], [3, 1], [0, 1]])  # none is for 2
    return x, chosen, torch.rand(7, 2, dtype=dtype, requires_grad=True)


def run(forward, wrapper, arguments):
    """Output and gradients of a forward pass of experts."""
    x, chosen, weights = (a.detach().clone() for a in arguments)
    x.requires_grad_(), weights.requires_grad_()
    trained = [p for p in wrapper.parameters() if p.requires_grad]
    out = forward(x, chosen, weights)
    return [out, *torch.autograd.grad(out.square().sum(), [x, weights, *trained])]


@pytest.mark.parametrize("family", FAMILIES)
def test_output_and_gradients_are_those_of_the_sum_of_weights(family):
    """In float64, of tokens, router weights and every adapter; an expert without tokens has zeros."""
    wrapper = wrapper_of(with_adapter(family)).train()
    fuse(wrapper)
    arguments = inputs(32)
    found = run(wrapper, wrapper, arguments)
    wanted = run(lambda *a: one_token_at_a_time(wrapper, *a), wrapper, arguments)
    assert len(found) == 3 + 4
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_one_kernel_for_all_groups_gives_the_same(monkeypatch):
    """What a GPU runs; ranks that its rows do not allow are left to the loop."""
    for rank in (16, 6):
        model = apply_lora(moe.make("qwen3_moe"), LoraConfig(r=rank))
        wrapper = wrapper_of(moe.randomise(model, 0.1)).train()
        fuse(wrapper)
        arguments = inputs(32, torch.float32)
        wanted, asked = run(wrapper, wrapper, arguments), []

        def kernel(*args, asked=asked, **kwargs):
            asked.append(args)
            return torch.nn.functional.grouped_mm(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(experts, "_kernel", lambda device, dtype: kernel)
            found = run(wrapper, wrapper, arguments)
        assert len(asked) == (6 if rank == 16 else 0)
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "family", ["qwen3_moe", "gpt_oss", "deepseek_v3", "llama4_text", "granitemoe", "jetmoe"]
)
def test_a_models_loss_and_gradients_are_those_of_peft(family, gradients, relative_error, stock_code):
    """In float64, whole models; families with experts of another form run as peft has them."""
    reference = with_adapter(family).train()
    model = copy.deepcopy(reference)
    assert fuse(model) > 0
    for llm in (model, reference):
        # Its own norms are in fp32, ours in the precision of their input.
        exact = family == "qwen3_moe" and llm is reference
        with stock_code(llm) if exact else contextlib.nullcontext():
            llm(input_ids=moe.ids(), labels=moe.ids(), use_cache=False).loss.backward()
    found, wanted = gradients(model), gradients(reference)
    assert found.keys() == wanted.keys()
    assert max(relative_error(found[name], wanted[name]) for name in wanted) < 1e-9


@pytest.mark.parametrize("family", [*FAMILIES, "mixtral", "olmoe", "deepseek_v3", "qwen2_moe"])
def test_whole_experts_train_as_transformers_has_them(family, gradients, relative_error, monkeypatch):
    """In float64: loss and gradients of all weights."""
    monkeypatch.setattr("xtuner.model.fused.layers.beats_transformers", lambda base, x: True)
    reference = moe.randomise(moe.make(family, torch.float64), 0.1).train()
    model = copy.deepcopy(reference)
    assert fuse(model) > 0
    assert [m for m in model.modules() if is_experts(m) and "forward" in vars(m)]
    for llm in (model, reference):
        llm.requires_grad_(True)
        llm(input_ids=moe.ids(), labels=moe.ids(), use_cache=False).loss.backward()
    found, wanted = gradients(model), gradients(reference)
    assert found.keys() == wanted.keys()
    # Other parts of these are in fp32 whatever their input is.
    limit = 1e-5 if family in ("qwen3_moe", "nemotron_h") else 1e-9
    assert max(relative_error(found[name], wanted[name]) for name in wanted) < limit


def test_whole_experts_multiply_in_the_precision_of_autocast():
    """transformers casts their input to the weights' fp32."""
    module = next(m for m in moe.make("qwen3_moe").modules() if is_experts(m)).train()
    fuse(module)
    x, chosen, weights = (a.detach() for a in inputs(32, torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        found = module(x, chosen, weights)
    rounded = copy.deepcopy(module).to(torch.bfloat16)
    expected = rounded(x.bfloat16(), chosen, weights)
    torch.testing.assert_close(found, expected.float(), rtol=0.02, atol=1e-5)
    found.sum().backward()
    assert module.down_proj.grad.dtype == torch.float32


def test_packed_samples_stay_apart(batch, naive_loss, gradients, relative_error):
    """Loss and gradients of a packed batch are those of each sample alone through peft and transformers."""
    sizes = {"vocab_size": 128, "max_position_embeddings": 64}
    llm = moe.make("qwen3_moe", torch.float64, **sizes)
    model = SupervisedFinetune(llm, lora=LoraConfig(r=4), use_activation_checkpointing=False).double().train()
    moe.randomise(model, 0.1)
    reference = copy.deepcopy(model.llm)
    loss, wanted = model(batch)["loss"], naive_loss(reference, batch)
    loss.backward(), wanted.backward()
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=0)  # the family's norms are fp32
    ours, theirs = gradients(model.llm), gradients(reference)
    assert ours.keys() == theirs.keys()
    assert max(relative_error(ours[n], theirs[n]) for n in ours) < 1e-5


def test_what_is_not_plain_runs_as_peft_has_it():
    """In eval mode, switched off, with two adapters, trained experts, and router adapters."""
    model = with_adapter("qwen3_moe", torch.float32)
    wrapper, arguments = wrapper_of(model), inputs(32, torch.float32)
    wanted = wrapper(*arguments)
    with model.disable_adapter():
        base = wrapper(*arguments)
    fuse(model)
    assert torch.equal(wrapper.eval()(*arguments), wanted)
    with model.train().disable_adapter():
        assert adapted_experts(wrapper) is None
        assert torch.equal(wrapper(*arguments), base)
    assert set(adapted_experts(wrapper)) == {"gate_up_proj", "down_proj"}
    wrapper.get_base_layer().down_proj.requires_grad_(True)
    assert adapted_experts(wrapper) is None
    router = wrapper_of(apply_lora(moe.make("mixtral"), LoraConfig(target_parameters=["gate.weight"])))
    assert adapted_experts(router) is None


def test_a_frozen_16_bit_base_trains_fp32_adapters(batch):
    """The base keeps its precision, the adapters theirs."""
    llm = moe.make("qwen3_moe", torch.bfloat16, vocab_size=128)
    model = SupervisedFinetune(llm, lora=LoraConfig(r=4), use_activation_checkpointing=False).train()
    loss = model(batch)["loss"]
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16), name
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_an_output_may_be_changed_in_place():
    """llama4 adds the routed experts to what an adapted layer has returned."""
    model = with_adapter("llama4_text").train()
    fuse(model)
    model(input_ids=moe.ids(), labels=moe.ids(), use_cache=False).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_unfused_experts_are_pefts_own():
    """As are all others: where weights are gathered layer by layer, nothing may read them from outside."""
    model = with_adapter("qwen3_moe")
    fuse(model)
    assert any("forward" in vars(module) for module in model.modules())
    unfuse(model)
    assert not [name for name, module in model.named_modules() if "forward" in vars(module)]
