"""Every kernel of attention that fits a call on a GPU gives what float64 on a CPU gives, also backward."""

from __future__ import annotations

import pytest
import torch

from xtuner.model import attention_kernels
from xtuner.model.attention_kernels import KERNELS, Call

pytestmark = pytest.mark.gpu

BOUNDARIES = [0, 3, 130, 700, 701, 1000]
LIMITS = {
    "causal": {},
    "window": {"window": 50},
    "soft cap": {"softcap": 5.0},
    "window and soft cap": {"window": 200, "softcap": 5.0},
    "sinks": {"sinks": True},
    "scale": {"scaling": 0.3},
    "bias": {"key_bias": True},
}
# Errors relative to the size of the result.
BOUNDS = {torch.float32: 2e-3, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def results(call, run):
    """The output and the gradients of query, key and value."""
    leaves = [call.query, call.key, call.value]
    out = run(call)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad(out, leaves, weights.to(out.device, out.dtype))
    return [tensor.detach().double().cpu() for tensor in (out, *gradients)]


def make_call(device, dtype, limits):
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(1, heads, BOUNDARIES[-1], 64, generator=generator, dtype=torch.float64)
        for heads in (4, 2, 2)
    ]
    sinks = torch.randn(4, generator=generator).to(device, dtype) if limits.get("sinks") else None
    query, key, value = (tensor.to(device, dtype).requires_grad_() for tensor in tensors)
    starts = torch.tensor(BOUNDARIES, dtype=torch.int32, device=device)
    slopes = 2.0 ** -torch.arange(1, 5)[:, None]
    bias = (slopes * torch.arange(BOUNDARIES[-1])).to(device, dtype) if limits.get("key_bias") else None
    given = {**limits, "sinks": sinks, "key_bias": bias}
    return Call(query, key, value, starts, BOUNDARIES, 570, **given)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("limits", LIMITS)
def test_kernels_agree(limits, dtype, device):
    call = make_call(device, dtype, LIMITS[limits])
    expected = results(make_call("cpu", torch.float64, LIMITS[limits]), attention_kernels._by_run)
    fitting = [kernel for kernel in KERNELS if kernel.fits(call)]
    for kernel in fitting:
        for found, wanted in zip(results(call, kernel.run), expected, strict=True):
            error = ((found - wanted).norm() / wanted.norm()).item()
            assert error < BOUNDS[dtype], f"{kernel.run} differs by {error:.2g}"
    assert fitting
