"""Whole models with kernels, by Triton's interpreter, against stock transformers and peft in float64."""

import copy

import pytest
import torch

pytest.importorskip("triton")

from tests.model.fused.test_layers import FAMILIES, tiny, with_lora
from tests.model.fused.test_linear import layer
from tests.model.kernels.conftest import DEVICE
from xtuner.model import SupervisedFinetune, kernels
from xtuner.model.fused import fuse, linear
from xtuner.model.fused.linear import adapted

pytestmark = [
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION"),
    pytest.mark.filterwarnings("ignore:Warning. Profiler clears events"),  # of torch 2.11
]


@pytest.fixture(autouse=True)
def with_kernels():
    """As if the interpreter were a GPU."""
    with kernels.assume_gpu():
        yield


def operators(run):
    """The operators of this project that `run` calls."""
    with torch.profiler.profile() as profile:
        run()
    return {e.key.removeprefix("xtuner::") for e in profile.key_averages() if e.key.startswith("xtuner::")}


def step(model, batch):
    def run():
        model.train()(batch)["loss"].backward()

    return run


@pytest.mark.parametrize(
    ("family", "adapter"), [*((name, True) for name in FAMILIES), ("qwen3", False), ("internlm2", False)]
)
def test_loss_and_gradients_are_those_of_stock_code_in_float64(
    family, adapter, sizes, batch, naive_loss, gradients, relative_error
):
    """Packed samples in fp32 by kernels against each sample alone; every kernel has run."""
    reference = tiny(family, sizes, torch.float32)
    reference = with_lora(reference, family) if adapter else reference
    model = SupervisedFinetune(copy.deepcopy(reference).to(DEVICE), use_activation_checkpointing=False)
    reference.double()
    used = operators(step(model, batch))
    wanted = {"rms_norm", "rms_norm_backward", "rotate", "cross_entropy_"}
    if family != "qwen3_moe":  # whose gate is in its experts
        wanted |= {"silu_product", "dropped_silu_product_backward_" if adapter else "silu_product_backward"}
    assert used == wanted
    with torch.no_grad():
        ours = model(batch)["loss"]
    theirs = naive_loss(reference, batch)
    theirs.backward()
    assert abs(ours - theirs) < 1e-6 * theirs
    found, wanted = gradients(model.llm), gradients(reference)
    assert found.keys() == wanted.keys()
    assert max(relative_error(found[name].cpu(), wanted[name]) for name in wanted) < 1e-5


class Mask(torch.nn.Module):
    """In place of a dropout: the mask that a kernel draws from a seed."""

    def __init__(self, rate, seed):
        super().__init__()
        self.rate, self.seed = rate, seed

    def forward(self, x):
        from xtuner.model.kernels.dropout import masked

        ones = torch.ones(x.shape, device=DEVICE)
        return x * masked(ones, self.rate, self.seed).to(x) / (1 - self.rate)


@pytest.mark.parametrize("family", ["llama", "qwen3", "internlm2"])
def test_a_layer_with_dropout_equals_stock_code_with_the_same_masks(family, sizes, gradients, relative_error):
    """Output and gradients of one layer, its input's too; the seeds are those of the process's generator."""
    llm = with_lora(tiny(family, sizes, torch.float32), family, lora_dropout=0.3).to(DEVICE).train()
    reference = copy.deepcopy(llm).double()
    fuse(llm)
    x = torch.randn(1, 13, sizes["hidden_size"], device=DEVICE)
    position = torch.arange(13, device=DEVICE)[None]
    torch.manual_seed(5)
    seeds = [linear.new_seed() for _ in range(4)]
    found = []
    for model, dtype in ((llm, torch.float32), (reference, torch.float64)):
        decoder = model.get_base_model().model
        layer, inputs = decoder.layers[0], x.detach().clone().to(dtype).requires_grad_()
        if model is reference:
            groups = [("q_proj", "k_proj", "v_proj", "wqkv"), ("o_proj", "wo")]
            groups += [("gate_proj", "up_proj", "w1", "w3"), ("down_proj", "w2")]
            for name, module in layer.named_modules():
                number = next((n for n, names in enumerate(groups) if name.split(".")[-1] in names), None)
                if number is not None:
                    module.lora_dropout["default"] = Mask(0.3, seeds[number])
        torch.manual_seed(5)
        angles = [a.to(dtype) for a in decoder.rotary_emb(inputs, position_ids=position)]
        y = layer(inputs, position_embeddings=angles, attention_mask=None)
        y.square().sum().backward()
        found.append({"y": y.detach(), "x": inputs.grad, **gradients(layer)})
    ours, theirs = found
    assert ours.keys() == theirs.keys()
    assert max(relative_error(ours[name], theirs[name]) for name in theirs) < 1e-5


@pytest.mark.parametrize("recompute", ["full", "selective", "offload"])
def test_recomputed_layers_draw_the_same_masks(recompute, sizes, batch, gradients, relative_error):
    """Gradients are those of a model that keeps all activations, to rounding where MLPs run in tiles."""
    found = []
    for way in ("none", recompute):
        llm = with_lora(tiny("llama", sizes, torch.float32), "llama", lora_dropout=0.3)
        model = SupervisedFinetune(llm.to(DEVICE), use_activation_checkpointing=way)
        torch.manual_seed(5)
        used = operators(step(model, batch))
        assert {"masked", "mask_", "rms_norm_backward"} <= used
        found.append(gradients(model.llm))
    assert max(relative_error(found[1][name], found[0][name]) for name in found[0]) < 1e-6


def test_mlps_in_tiles_draw_the_same_masks_in_backward(sizes, relative_error):
    """By finite differences in one direction, residual and all."""
    from xtuner.model.fused.mlp import gated_mlp

    llm = with_lora(tiny("llama", sizes, torch.float32), "llama", lora_dropout=0.3).train().to(DEVICE)
    mlp = llm.get_base_model().model.layers[0].mlp
    x, way, beside = (torch.randn(11, sizes["hidden_size"], device=DEVICE) for _ in range(3))

    def block(x):
        torch.manual_seed(3)
        return gated_mlp(x, mlp.gate_proj, mlp.up_proj, mlp.down_proj, 4, beside).double()

    x.requires_grad_()
    (grad,) = torch.autograd.grad(block(x).square().sum(), x)
    step = 1e-3
    with torch.no_grad():
        ahead, behind = (block(x + sign * step * way).square().sum() for sign in (1, -1))
    assert relative_error((grad.double() * way).sum(), (ahead - behind) / (2 * step)) < 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_bases_with_fp32_adapters(dtype, sizes, batch, naive_loss, gradients, relative_error):
    """As QLoRA trains: gradients in fp32, near those of float64."""
    reference = with_lora(tiny("llama", sizes, torch.float32), "llama")
    for name, parameter in reference.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.to(dtype).float()
    model = SupervisedFinetune(copy.deepcopy(reference).to(DEVICE), use_activation_checkpointing=False)
    for name, parameter in model.llm.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.to(dtype)
    used = operators(step(model, batch))
    assert {"rms_norm", "rotate", "dropped_silu_product_backward_", "cross_entropy_"} <= used
    naive_loss(reference.double(), batch).backward()
    found, wanted = gradients(model.llm), gradients(reference)
    assert all(g.dtype == torch.float32 for g in found.values())
    limit = 16 * torch.finfo(dtype).eps
    assert max(relative_error(found[name].cpu(), wanted[name]) for name in wanted) < limit


def test_under_autocast_the_kernels_round_to_16_bits(sizes, batch):
    """fp32 weights and sums beside the layers, bf16 products; gradients come back in fp32."""
    model = SupervisedFinetune(
        tiny("llama", sizes, torch.float32).to(DEVICE), use_activation_checkpointing=False
    ).train()
    exact = model(batch)["loss"]
    with torch.autocast(DEVICE, torch.bfloat16):
        loss = model(batch)["loss"]
    loss.backward()
    assert 0 < abs(loss - exact) < 0.02 * exact
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


def test_layers_of_one_input_with_other_ranks_and_factors(relative_error):
    """With biases, without a residual and with one: outputs and all gradients against peft in float64."""
    torch.manual_seed(0)
    modules = [layer(torch.nn.Linear(7, rows), rank) for rows, rank in ((5, 3), (4, 2), (6, 3))]
    modules[1].scaling["default"] = 0.7
    x, beside = torch.randn(2, 3, 7), torch.randn(2, 3, 6)

    def ours(x):
        return *linear.lora_linears(x, tuple(modules)), linear.linear_onto(beside, x, modules[2])

    def theirs(x):
        return *(m(x) for m in modules), beside + modules[2](x)

    found = []
    for function, dtype in ((ours, torch.float32), (theirs, torch.float64)):
        for module in modules:
            module.to(DEVICE, dtype)
        beside = beside.to(DEVICE, dtype)
        inputs = x.to(DEVICE, dtype, copy=True).requires_grad_()
        ys = function(inputs)
        trained = [p for m in modules for p in _adapter(m)]
        found.append([*ys, *torch.autograd.grad(sum(y.square().sum() for y in ys), [inputs, *trained])])
    for mine, stock in zip(*found, strict=True):
        assert mine.dtype == torch.float32
        assert relative_error(mine, stock) < 1e-5


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_bases(bits, sizes, relative_error):
    """A residual and dropout on nf4 and int8 layers, against the layer's own product."""
    bnb = pytest.importorskip("bitsandbytes")
    from peft import LoraConfig
    from peft.tuners.lora.bnb import Linear4bit, Linear8bitLt

    if bits == 4:
        base = bnb.nn.Linear4bit(64, 32, bias=False, compute_dtype=torch.float32, quant_type="nf4")
        kind = Linear4bit
    else:
        base, kind = bnb.nn.Linear8bitLt(64, 32, bias=False, has_fp16_weights=False), Linear8bitLt
    module = kind(base.to(DEVICE).requires_grad_(False), "default", LoraConfig(r=4), r=4).to(DEVICE)
    torch.nn.init.normal_(module.lora_B["default"].weight, std=0.3)
    assert adapted(module) is not None
    x, beside = torch.randn(5, 64, device=DEVICE), torch.randn(5, 32, device=DEVICE)
    results = []
    for function in (lambda a: linear.linear_onto(beside, a, module), lambda a: beside + module(a)):
        inputs = x.clone().requires_grad_()
        y = function(inputs)
        results.append([y, *torch.autograd.grad(y.square().sum(), [inputs, *_adapter(module)])])
    for ours, theirs in zip(*results, strict=True):
        assert relative_error(ours, theirs) < 1e-4


def _adapter(module):
    return module.lora_A["default"].weight, module.lora_B["default"].weight
