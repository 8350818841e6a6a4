"""Each kernel against the same in float64, for odd shapes and every precision."""

import os
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import cross_entropy, silu

from xtuner.model import kernels

pytest.importorskip("triton")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1), (7, 64), (3, 5, 100), (2, 3, 4, 16), (300, 33)]

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")


def wide(*tensors):
    return [t.detach().double().requires_grad_() for t in tensors]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm(shape, dtype, random, assert_close):
    """The norm, and the gradients of input and weight, of any number of rows."""
    from xtuner.model.kernels.norm import rms_norm, rms_norm_backward

    x, weight, dy = (random(*s, dtype=dtype) for s in (shape, shape[-1:], shape))
    x64, weight64 = wide(x, weight)
    expected = x64 * (x64.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight64
    expected.backward(dy.double())
    y, scale = rms_norm(x, weight, 1e-5, dtype)
    dx, d_weight = rms_norm_backward(dy, x, weight, scale, None, True, True)
    assert_close(y, expected)
    if shape != (1, 1):  # there the gradient is what rounding leaves of zero
        assert_close(dx, x64.grad)
    assert_close(d_weight, weight64.grad)
    assert rms_norm_backward(dy, x, weight, scale, None, False, True)[0].numel() == 0
    assert torch.equal(rms_norm_backward(dy, x, weight, scale, None, True, False)[0], dx)
    both, none = rms_norm_backward(dy, x, weight, scale, x, True, False)
    assert none.numel() == 0
    assert_close(both, x64.grad + x64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gated_product(shape, dtype, random, assert_close):
    """The product and its gradients."""
    from xtuner.model.kernels.gated import silu_product, silu_product_backward

    gate, up, dh = (random(*shape, dtype=dtype) for _ in range(3))
    gate64, up64 = wide(gate, up)
    expected = silu(gate64) * up64
    expected.backward(dh.double())
    h, dropped = silu_product(gate, up, 0.0, 0)
    assert dropped.numel() == 0
    assert_close(h, expected)
    d_gate, d_up = silu_product_backward(dh, gate, up)
    assert_close(d_gate, gate64.grad)
    assert_close(d_up, up64.grad)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_dropped_gated_product(rate, dtype, random, assert_close):
    """Dropout of the product, its mask again on the gradient of the adapter, gradients in place."""
    from xtuner.model.kernels.dropout import masked
    from xtuner.model.kernels.gated import dropped_silu_product_backward_, silu_product

    gate, up, dh, low = (random(71, 129, dtype=dtype) for _ in range(4))
    mask = masked(torch.ones_like(gate), rate, 7).double()
    gate64, up64 = wide(gate, up)
    expected = silu(gate64) * up64
    expected.backward(dh.double() + (mask * low.double() if rate else 0))
    h, dropped = silu_product(gate, up, rate, 7)
    assert_close(h, expected)
    wanted = h * mask.to(dtype)
    if rate:
        assert torch.equal(dropped, wanted)
    assert torch.equal(dropped_silu_product_backward_(dh, low, gate, up, rate, 7), wanted)
    assert_close(dh, gate64.grad)
    assert_close(low, up64.grad)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(("heads", "key_heads", "width"), [(1, 1, 2), (3, 2, 16), (5, 1, 24)])
def test_rotary_positions(heads, key_heads, width, rows, dtype, random, assert_close):
    """Halves are turned, also in a part of a wider projection; the opposite angle turns them back."""
    from xtuner.model.kernels.rotary import rotate

    q, k = (random(2, 5, (n + 2) * width, dtype=dtype)[..., : n * width] for n in (heads, key_heads))
    q, k = q.view(2, 5, heads, width), k.view(2, 5, key_heads, width)
    angle = random(rows, 5, 1, width)[..., : width // 2]
    cos, sin = angle.cos(), angle.sin()
    turned = rotate(q, k, cos, sin, 1.0)
    for x, found in zip((q, k), turned, strict=True):
        first, second = x.double().chunk(2, -1)
        assert_close(found, torch.cat([first * cos - second * sin, second * cos + first * sin], -1))
    for x, found in zip((q, k), rotate(*turned, cos, sin, -1.0), strict=True):
        assert_close(found, x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout(dtype, random):
    """A fraction of the elements is zero, others are as they were; a seed gives one mask, in place too."""
    from xtuner.model.kernels.dropout import mask_, masked

    x = random(131, 257, dtype=dtype).abs() + 1
    y = masked(x, 0.25, 7)
    kept = y != 0
    assert 0.24 < 1 - kept.float().mean().item() < 0.26
    assert torch.equal(y[kept], x[kept])
    # Columns and rows are hit alike, and two seeds agree by chance alone.
    assert (kept.float().mean(0) - 0.75).abs().max() < 0.2
    both = (kept & (masked(x, 0.25, 8) != 0)).float().mean().item()
    assert both == pytest.approx(0.75**2, abs=0.01)
    assert torch.equal(masked(x, 0.25, 7), y)
    mask_(x, 0.25, 7)
    assert torch.equal(x, y)
    assert torch.equal(masked(x, 0.0, 3), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [3, 1000, 20_000])
def test_cross_entropy(width, dtype, random, assert_close):
    """Losses in fp32; the logits, a part of wider rows, become the gradient of their sum."""
    from xtuner.model.kernels import loss

    logits = random(5, width + 8, dtype=dtype)[:, :width].mul_(4)
    targets = torch.tensor([0, width - 1, width // 2, 1, 1], device=logits.device)
    (logits64,) = wide(logits)
    expected = cross_entropy(logits64, targets, reduction="none")
    expected.sum().backward()
    assert_close(loss.cross_entropy(logits, targets), expected)
    losses, entropies = loss.cross_entropy_and_entropy(logits, targets)
    assert torch.equal(losses, loss.cross_entropy(logits, targets))
    assert_close(entropies, torch.distributions.Categorical(logits=logits64.detach()).entropy())
    scaled, factors = logits.clone(), random(5)
    assert_close(loss.cross_entropy_(scaled, targets, factors), expected)
    assert_close(scaled, logits64.grad * factors[:, None])
    assert_close(loss.cross_entropy_(logits, targets, None), expected)
    assert_close(logits, logits64.grad)


@pytest.mark.parametrize("shape", [(3, 64), (32, 192), (5, 1000)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_weights_of_4_bits(kind, dtype, shape, random):
    """The values that bitsandbytes gives, of blocks whose last ones are not full."""
    bnb = pytest.importorskip("bitsandbytes")
    from xtuner.model.fused.linear import frozen_weight
    from xtuner.model.kernels.four_bits import dequantize_nested

    codes, state = bnb.functional.quantize_4bit(
        random(*shape, dtype=dtype), quant_type=kind, compress_statistics=True
    )
    inner = state.state2
    found = dequantize_nested(
        codes, state.code, state.absmax, inner.code, inner.absmax, state.offset,
        state.blocksize, inner.blocksize, state.shape, dtype,
    )  # fmt: skip
    expected = bnb.functional.dequantize_4bit(codes, state)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected)
    layer = bnb.nn.Linear4bit(shape[1], shape[0], bias=False, quant_type=kind)
    layer.weight = bnb.nn.Params4bit(codes, quant_state=state, bnb_quantized=True)
    with kernels.assume_gpu():
        assert torch.equal(frozen_weight(layer, dtype), found)


def test_a_gpu_without_a_compiler_trains_without_kernels(tmp_path):
    """What Triton lacks is logged once; without its interpreter a CPU has no compiler at all."""
    program = "import torch; from xtuner.model import kernels\n"
    program += "print([kernels._runs(torch.device('cpu'), torch.bfloat16) for _ in range(2)])"
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[False, False]\n"
    assert "Triton's kernels do not run on cpu in bfloat16, so training there is slower" in done.stderr


def test_shapes_are_known_without_values(random):
    """On `meta` tensors every operator gives what it gives on others: shapes, dtypes and layout."""
    from torch.library import opcheck

    from xtuner.model.kernels import dropout, four_bits, gated, loss, norm, rotary

    x, w, one, angle = random(3, 4, 8), random(8), random(3, 4, 1), random(1, 3, 1, 4)
    logits, targets = random(3, 9), torch.tensor([1, 2, 8], device=x.device)
    heads, codes = x.view(1, 3, 4, 8), torch.zeros(32, 1, dtype=torch.uint8, device=x.device)
    levels = torch.ones(256, device=x.device)
    calls = [
        (norm.rms_norm, (x, w, 1e-5, torch.bfloat16)),
        (norm.rms_norm_backward, (x, x, w, one, None, True, True)),
        (norm.rms_norm_backward, (x, x, w, one, x, True, False)),
        (norm.rms_norm_backward, (x, x, w, one, None, False, False)),
        (gated.silu_product, (x, x, 0.0, 0)),
        (gated.silu_product, (x, x, 0.5, 1)),
        (gated.silu_product_backward, (x, x, x)),
        (gated.dropped_silu_product_backward_, (x.clone(), x.clone(), x, x, 0.5, 1)),
        (rotary.rotate, (heads, heads[:, :, :2], angle, angle, 1.0)),
        (dropout.masked, (x, 0.5, 1)),
        (dropout.mask_, (x.clone(), 0.5, 1)),
        (four_bits.dequantize_nested, (codes, *[levels] * 5, 64, 256, (16, 4), torch.bfloat16)),
        (loss.cross_entropy, (logits, targets)),
        (loss.cross_entropy_and_entropy, (logits, targets)),
        (loss.cross_entropy_, (logits.clone(), targets, None)),
        (loss.cross_entropy_, (logits.clone(), targets, random(3))),
    ]
    for operator, arguments in calls:
        opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))
