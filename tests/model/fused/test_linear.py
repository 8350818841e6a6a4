"""LoRA layers as one step: against peft's own forward, plain and quantised, with and without dropout."""

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from torch import nn

from xtuner.model.fused.dropout import kept
from xtuner.model.fused.linear import Adapted, Group, adapted, lora_linears
from xtuner.model.fused.mlp import gated_mlp


def layer(base, rank=3, dropout=0.0, **kwargs):
    """peft's layer over `base` with a random adapter."""
    base.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=dropout, **kwargs)
    module = Linear(base, "default", config, r=rank, lora_alpha=2 * rank).to(base.weight.dtype)
    nn.init.normal_(module.lora_B["default"].weight, std=0.3)
    return module


def plain(rows, columns, **kwargs):
    return layer(nn.Linear(columns, rows, dtype=torch.float64), **kwargs)


def gradients(outputs, x, modules):
    """Of a fixed weighted sum of `outputs`, for `x` and all adapters."""
    generator = torch.Generator().manual_seed(0)
    total = sum((y * torch.randn(y.shape, generator=generator, dtype=y.dtype)).sum() for y in outputs)
    inputs = [x, *(p for m in modules for p in m.parameters() if p.requires_grad)]
    return torch.autograd.grad(total, inputs)


def test_three_layers_of_one_input_equal_peft():
    """Other widths and ranks, with bias, three dimensions of input: outputs and all gradients in float64."""
    torch.manual_seed(0)
    modules = (plain(5, 7), plain(4, 7, rank=2), plain(6, 7))
    x = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)
    ours, theirs = lora_linears(x, modules), tuple(m(x) for m in modules)
    for found, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, wanted)
    for found, wanted in zip(gradients(ours, x, modules), gradients(theirs, x, modules), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("tile", [None, 6, 4, 1])
def test_the_gated_block_equals_its_layers(tile):
    """One function for gate, up and down, for all rows or by tiles."""
    torch.manual_seed(0)
    gate, up, down = plain(8, 5), plain(8, 5), plain(5, 8)
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    ours = gated_mlp(x, gate, up, down, tile)
    theirs = down(nn.functional.silu(gate(x)) * up(x))
    torch.testing.assert_close(ours, theirs)
    for found, wanted in zip(
        gradients([ours], x, (gate, up, down)), gradients([theirs], x, (gate, up, down)), strict=True
    ):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("tile", [None, 2])
def test_the_gated_block_drops_the_same_in_backward(tile):
    """The gradient is that of the function with its masks: finite differences agree."""
    torch.manual_seed(0)
    modules = tuple(plain(*shape, dropout=0.3).train() for shape in ((8, 5), (8, 5), (5, 8)))

    def block(x):
        torch.manual_seed(3)
        return gated_mlp(x, *modules, tile)

    assert torch.autograd.gradcheck(block, torch.randn(4, 5, dtype=torch.float64, requires_grad=True))


def test_dropout_acts_on_the_adapters_input_alone_and_is_scaled_up():
    """Against the formula with the same mask, forward and backward."""
    torch.manual_seed(0)
    module = plain(4, 6, dropout=0.25)
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(3)
    seed = Group((adapted(module),)).seed
    torch.manual_seed(3)
    ours = lora_linears(x, (module,))
    mask = kept(x, 0.25, seed) / 0.75
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    theirs = module.base_layer(x) + 2 * ((x * mask) @ a.T) @ b.T
    torch.testing.assert_close(ours[0], theirs)
    for found, wanted in zip(gradients(ours, x, [module]), gradients([theirs], x, [module]), strict=True):
        torch.testing.assert_close(found, wanted)
    assert adapted(module.eval()).dropout == 0


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_bases_equal_peft(bits):
    """nf4 and int8 layers of bitsandbytes in fp32: the same outputs and gradients as peft's layers."""
    bnb = pytest.importorskip("bitsandbytes")
    from peft.tuners.lora.bnb import Linear4bit, Linear8bitLt

    torch.manual_seed(0)
    if bits == 4:
        base = bnb.nn.Linear4bit(64, 32, bias=False, compute_dtype=torch.float32, quant_type="nf4")
        kind = Linear4bit
    else:
        base, kind = bnb.nn.Linear8bitLt(64, 32, bias=False, has_fp16_weights=False), Linear8bitLt
    base = base.to("cpu").requires_grad_(False)
    modules = tuple(kind(base, "default", LoraConfig(r=4), r=4) for _ in range(2))
    for module in modules:
        nn.init.normal_(module.lora_B["default"].weight, std=0.3)
        assert isinstance(adapted(module), Adapted)
    x = torch.randn(5, 64, requires_grad=True)
    ours, theirs = lora_linears(x, modules), tuple(m(x) for m in modules)
    for found, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    for found, wanted in zip(gradients(ours, x, modules), gradients(theirs, x, modules), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kwargs", [{"use_dora": True}, {"lora_bias": True}], ids=["dora", "lora_bias"])
def test_what_is_more_than_plain_lora_stays_pefts(kwargs):
    """DoRA and biases of the adapter run through peft's own layer."""
    module = plain(4, 6, **kwargs)
    x = torch.randn(5, 6, dtype=torch.float64)
    assert adapted(module) is None
    assert torch.equal(lora_linears(x, (module,))[0], module(x))


def test_the_input_of_the_first_layer_needs_no_gradient():
    """With frozen embeddings only the adapters get gradients."""
    module = plain(4, 6)
    (y,) = lora_linears(torch.randn(5, 6, dtype=torch.float64), (module,))
    y.sum().backward()
    assert module.lora_B["default"].weight.grad is not None
