"""One update: clipping, scaling, gradients that are not finite."""

import math

import pytest
import torch

from xtuner.engine import optim
from xtuner.engine.optim import AmpOptimWrapper, OptimWrapper
from xtuner.errors import ConfigError


def weight_and_optimizer():
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    return weight, torch.optim.SGD([weight], lr=1.0)


def test_clipping_and_the_norm_before_it():
    weight, optimizer = weight_and_optimizer()
    wrapper = OptimWrapper(optimizer, clip_grad={"max_norm": 1.0})
    wrapper.backward((weight * torch.tensor([3.0, 4.0])).sum())
    update = wrapper.update()
    assert (update.grad_norm, update.applied) == (5.0, True)
    assert torch.allclose(weight, torch.tensor([1.0 - 0.6, 2.0 - 0.8]), atol=1e-6)
    assert weight.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
def test_a_clipped_step_is_that_of_torch(kind, fused, dtype, moment):
    """For gradients above and below the norm, with and without clipping in the optimizer's kernel."""
    torch.manual_seed(0)
    ours, theirs = ([torch.nn.Parameter(torch.arange(6, dtype=dtype).view(2, 3))] for _ in range(2))
    wrapper = OptimWrapper(kind(ours, lr=0.1, fused=fused), clip_grad={"max_norm": 1.0})
    optimizer = kind(theirs, lr=0.1, fused=fused)
    for length in (5.0, 0.5, 2.0):
        slope = torch.randn(2, 3, dtype=dtype)
        slope *= length / slope.norm()
        wrapper.backward((ours[0] * slope).sum())
        (theirs[0] * slope).sum().backward()
        assert float(wrapper.update().grad_norm) == pytest.approx(length, rel=1e-2)
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        torch.testing.assert_close(ours[0], theirs[0])


def test_without_clipping_the_gradient_is_used_as_it_is():
    weight, optimizer = weight_and_optimizer()
    wrapper = OptimWrapper(optimizer)
    wrapper.backward((weight * torch.tensor([3.0, 4.0])).sum())
    assert wrapper.update().grad_norm == 5.0
    assert torch.equal(weight, torch.tensor([-2.0, -2.0]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(value):
    weight, optimizer = weight_and_optimizer()
    wrapper = OptimWrapper(optimizer, clip_grad={"max_norm": 1.0})
    wrapper.backward((weight * value).sum())
    update = wrapper.update()
    assert (update.applied, update.rescaled) == (False, False)
    assert torch.equal(weight, torch.tensor([1.0, 2.0]))
    assert weight.grad is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("clip_grad", [None, {"max_norm": 1.0}])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
def test_a_pending_update_is_skipped_by_the_kernel(kind, clip_grad, value, monkeypatch):
    """Weights, state and the count of steps stay; the next update is the usual one."""
    monkeypatch.setattr(optim, "skips_on_device", lambda device: True)

    def trained(slopes):
        weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        wrapper = OptimWrapper(kind([weight], lr=0.1, fused=True), clip_grad)
        updates = []
        for slope in slopes:
            wrapper.backward((weight * slope).sum())
            updates.append(wrapper.update())
        return weight, wrapper.optimizer.state[weight], updates

    weight, state, updates = trained([3.0, value, 4.0])
    expected, usual, _ = trained([3.0, 4.0])
    assert [u.wait().applied for u in updates] == [True, False, True]
    assert [math.isfinite(u.wait().grad_norm) for u in updates] == [True, False, True]
    assert torch.equal(weight, expected)
    for name, tensor in usual.items():
        assert torch.equal(state[name], tensor)


def test_a_loss_scale_that_is_too_high_is_lowered_without_an_error():
    weight, optimizer = weight_and_optimizer()
    wrapper = AmpOptimWrapper(optimizer, dtype="float32")
    wrapper.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    wrapper.backward((weight * 1e6).sum())
    update = wrapper.update()
    assert (update.applied, update.rescaled) == (False, True)
    assert wrapper.scaler.get_scale() == 2.0**126
    assert torch.equal(weight, torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"accumulative_counts": 0}, "accumulative_counts is 0"),
        ({"clip_grad": {"max_nrm": 1}}, "clip_grad has no key 'max_nrm'"),
        ({"dtype": "float17"}, "dtype is 'float17'"),
    ],
)
def test_invalid_settings(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        AmpOptimWrapper(weight_and_optimizer()[1], **kwargs)
