"""Inputs of several dtypes: every fused function gives what stock code gives in float64."""

import contextlib
import itertools

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from torch import nn
from torch.nn.functional import cross_entropy, linear, scaled_dot_product_attention, silu

from xtuner.model.attention import PackedMask, attention
from xtuner.model.fused.linear import compute_dtype, lora_linears
from xtuner.model.fused.mlp import gated_mlp
from xtuner.model.fused.norm import rms_norm
from xtuner.model.fused.rotary import rotate
from xtuner.model.loss import cross_entropy_sum, head_cross_entropy_sum

F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
DTYPES = (F32, BF16, F16, F64)
AUTOCAST = (None, BF16, F16)
BOUNDARIES = [0, 5, 6, 14]


def packed(window=None, softcap=None):
    def function(query, key, value):
        boundaries = torch.tensor(BOUNDARIES, dtype=torch.int32)
        mask, rest = PackedMask(BOUNDARIES, window), {"cu_seq_lens_q": boundaries, "max_length_q": 8}
        return attention(None, query, key, value, mask, softcap=softcap, **rest)[0]

    return function


def sample_by_sample(window=None, softcap=None):
    def function(query, key, value):
        parts = []
        for a, b in itertools.pairwise(BOUNDARIES):
            ahead = torch.arange(b - a)[:, None] - torch.arange(b - a)[None]
            mask = (ahead >= 0) & (ahead < (window or 99))
            q, k, v = (x[:, :, a:b] for x in (query, key, value))
            if softcap is None:
                out = scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
            else:
                k, v = (x.repeat_interleave(2, 1) for x in (k, v))
                scores = softcap * torch.tanh(q @ k.mT * q.shape[-1] ** -0.5 / softcap)
                out = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v
            parts.append(out.transpose(1, 2))
        return torch.cat(parts, 1)

    return function


def doubled(angles):
    """With equal halves, as tables of angles are; they are no weights."""
    return angles[..., : angles.shape[-1] // 2].detach().repeat(1, 1, 2)


def turned(query, key, cos, sin):
    def half(x):
        first, second = x.chunk(2, -1)
        return torch.cat([-second, first], -1)

    cos, sin = doubled(cos)[:, :, None], doubled(sin)[:, :, None]
    return query * cos + half(query) * sin, key * cos + half(key) * sin


def stock_norm(x, weight):
    return weight * x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()


def lora_layer(weight, a, b):
    base = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    base.weight = nn.Parameter(weight.detach(), requires_grad=False)
    module = Linear(base, "default", LoraConfig(r=3, lora_alpha=6), r=3, lora_alpha=6)
    # As leaves of the test's own graph.
    for layer, value in ((module.lora_A["default"], a), (module.lora_B["default"], b)):
        del layer.weight
        layer.weight = value
    return module


def lora(x, weight, a, b):
    return lora_linears(x, (lora_layer(weight, a, b),))[0]


def lora_formula(x, weight, a, b):
    return linear(x, weight.detach()) + 2 * linear(linear(x, a), b)


def lora_mlp(tile):
    def function(x, weight, a, b):
        modules = [lora_layer(weight, a, b) for _ in range(3)]
        return gated_mlp(x, *modules, tile)

    return function


def lora_mlp_formula(x, weight, a, b):
    gate = lora_formula(x, weight, a, b)
    return lora_formula(silu(gate) * gate, weight, a, b)


class Gives(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output


def gated(gate, up):
    return gated_mlp(gate, Gives(gate), Gives(up), nn.Identity())


def head(weight, bias):
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    del layer.weight, layer.bias
    layer.weight, layer.bias = weight, bias
    return layer


TARGETS = torch.tensor([0, 3, 1, 4, 4, 2])
HEADS = ((1, 4, 14, 8), (1, 2, 14, 8), (1, 2, 14, 6))
ALL_EIGHT = (HEADS[0], HEADS[1], (*HEADS[2][:3], 8))
TURN = ((2, 5, 4, 8), (2, 5, 2, 8), (2, 5, 8), (2, 5, 8))
LORA = ((6, 8), (8, 8), (3, 8), (8, 3))

# Function, the same in stock torch, shapes of its inputs.
CASES = {
    "attention": (packed(), sample_by_sample(), HEADS),
    "attention in a window": (packed(window=3), sample_by_sample(window=3), ALL_EIGHT),
    "attention with a soft cap": (packed(softcap=2.0), sample_by_sample(softcap=2.0), HEADS),
    "rotary": (lambda q, k, c, s: rotate(q, k, doubled(c), doubled(s)), turned, TURN),
    "norm": (lambda x, w: rms_norm(x, w, 1e-6), stock_norm, ((4, 3, 8), (8,))),
    "gated product": (gated, lambda gate, up: silu(gate) * up, ((5, 8), (5, 8))),
    "lora": (lora, lora_formula, LORA),
    "lora mlp": (lora_mlp(None), lora_mlp_formula, LORA),
    "lora mlp in tiles": (lora_mlp(4), lora_mlp_formula, LORA),
    "loss of the head": (
        lambda x, w, b: head_cross_entropy_sum(x, head(w, b), TARGETS),
        lambda x, w, b: cross_entropy(linear(x, w, b), TARGETS, reduction="sum"),
        ((6, 8), (5, 8), (5,)),
    ),
    "loss of logits": (
        lambda x: cross_entropy_sum(x, TARGETS),
        lambda x: cross_entropy(x, TARGETS, reduction="sum"),
        ((6, 5),),
    ),
}


def results(function, inputs, autocast=None):
    """Outputs and gradients of a fixed weighted sum of them."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    with torch.autocast("cpu", autocast) if autocast else contextlib.nullcontext():
        outputs = function(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(1)
    total = sum((torch.randn(y.shape, generator=generator, dtype=F64) * y).sum() for y in outputs)
    grads = torch.autograd.grad(total, inputs, allow_unused=True)
    return [y.detach() for y in outputs], grads


@pytest.mark.parametrize("autocast", AUTOCAST, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_any_mixture_of_dtypes_gives_what_stock_code_gives_in_float64(name, autocast):
    """Outputs and gradients, these in the dtypes of the inputs, as near as the coarsest dtype allows."""
    function, stock, shapes = CASES[name]
    torch.manual_seed(0)
    exact, wrong = [torch.randn(shape, dtype=F64) for shape in shapes], {}
    mixtures = itertools.product(DTYPES if len(shapes) < 4 else DTYPES[:3], repeat=len(shapes))
    for dtypes in mixtures:
        inputs = [x.to(dtype) for x, dtype in zip(exact, dtypes, strict=True)]
        used = {*dtypes, autocast} - {None}
        bound = 8 * max(torch.finfo(dtype).eps for dtype in used) if used != {F64} else 1e-12
        try:
            found, wanted = results(function, inputs, autocast), results(stock, [x.double() for x in inputs])
        except RuntimeError as error:
            wrong[dtypes] = str(error)
            continue
        errors = [
            ((a.double() - b).norm() / b.norm()).item()
            for a, b in zip([*found[0], *found[1]], [*wanted[0], *wanted[1]], strict=True)
            if b is not None
        ]
        kept = [g is None or g.dtype == x.dtype for g, x in zip(found[1], inputs, strict=True)]
        if not (max(errors) < bound and all(kept)):
            wrong[dtypes] = errors, kept
    assert wrong == {}


@pytest.mark.parametrize("autocast", AUTOCAST, ids=str)
def test_mixed_inputs_are_computed_in_what_torch_computes_in(autocast):
    """Autocast's dtype but for float64, which autocast leaves alone; else one that holds all of them."""
    x = {dtype: torch.zeros(2, 2, dtype=dtype) for dtype in DTYPES}
    with torch.autocast("cpu", autocast) if autocast else contextlib.nullcontext():
        for dtype in DTYPES:
            assert compute_dtype(x[dtype]) == linear(x[dtype], x[dtype]).dtype
        assert compute_dtype(x[F32], x[BF16]) == (autocast or F32)
        assert compute_dtype(x[F16], x[BF16]) == (autocast or F32)
        assert compute_dtype(x[F64], x[BF16]) == F64
