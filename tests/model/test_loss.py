import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from xtuner import blocks
from xtuner.model.loss import (
    cross_entropy_sum,
    entropies_of,
    head_cross_entropy_sum,
    head_logprobs,
    head_logprobs_and_entropies,
)
from xtuner.next_tokens import next_tokens


def test_the_target_of_a_position_is_the_next_token_of_its_sample():
    """The first token of a sample is never a target, for any label; -100 stays masked."""
    positions, targets = next_tokens(np.array([10, 11, -100, 20, 21]), [0, 3, 5])
    assert (positions.tolist(), targets.tolist()) == ([0, 3], [11, 21])
    assert [x.tolist() for x in next_tokens(np.zeros(0, np.int64), [0, 0])] == [[], []]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_the_head_loss_and_its_gradients_are_those_of_torch(monkeypatch, dtype, tolerance, bias):
    """Blocks change neither the loss nor any gradient."""
    monkeypatch.setattr(blocks, "LOSS_ROWS", 48)
    monkeypatch.setitem(blocks.LOSS_BLOCK, "cpu", 0)
    monkeypatch.setitem(blocks.SOFTMAX_PART, "cpu", 3 * 4 * 11)  # softmax of 3 rows
    head = torch.nn.Linear(5, 11, bias=bias, dtype=dtype)
    hidden = torch.randn(130, 5, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, 11, (130,))
    inputs = [hidden, *head.parameters()]
    ours = head_cross_entropy_sum(hidden, head, targets) / 50
    naive = cross_entropy(head(hidden), targets, reduction="sum") / 50
    assert abs(ours - naive) < tolerance * naive
    for found, wanted in zip(
        torch.autograd.grad(ours, inputs), torch.autograd.grad(naive, inputs), strict=True
    ):
        assert (found - wanted).norm() < tolerance * wanted.norm()


class Shapes(TorchDispatchMode):
    """Records the shape of every tensor created within it."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and not func.is_view:
            self.found.add(tuple(made.shape))
        return made


@pytest.mark.parametrize("bias", [False, True])
def test_no_gradient_is_computed_under_no_grad(bias, monkeypatch):
    """The loss is the same, and no tensor of the size of the head, states or logits is created."""
    monkeypatch.setitem(blocks.SOFTMAX_PART, "cpu", 3 * 4 * 11)
    head = torch.nn.Linear(5, 11, bias=bias, dtype=torch.float64)
    hidden = torch.randn(130, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 11, (130,))
    logits = head(hidden)
    trained = head_cross_entropy_sum(hidden, head, targets), cross_entropy_sum(logits, targets)
    with torch.no_grad():
        with Shapes() as of_head:
            measured = head_cross_entropy_sum(hidden, head, targets)
        with Shapes() as of_logits:
            again = cross_entropy_sum(logits, targets)
    assert (measured, again) == trained
    assert not of_head.found & {(11, 5), (11,), (130, 5)}
    assert (130, 11) not in of_logits.found


def test_a_target_that_is_certain_keeps_its_small_gradient():
    """p - 1 is computed without cancellation, a loss near zero without log(0)."""
    logits = torch.tensor([[30.0, 0.0], [0.0, 200.0]], requires_grad=True)
    total = cross_entropy_sum(logits, torch.tensor([0, 0]))
    total.backward()
    torch.testing.assert_close(total.item(), 200.0)
    torch.testing.assert_close(logits.grad[0, 0].item(), -9.357623e-14)


def test_the_sum_and_its_gradient_are_those_of_torch(monkeypatch):
    """Parts of rows change neither the loss nor the gradient."""
    monkeypatch.setitem(blocks.SOFTMAX_PART, "cpu", 3 * 4 * 11)
    logits = torch.randn(8, 11, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 11, (8,))
    (cross_entropy_sum(logits, targets) / 5).backward()
    ours, logits.grad = logits.grad, None
    (cross_entropy(logits, targets, reduction="sum") / 5).backward()
    torch.testing.assert_close(ours, logits.grad)
    torch.testing.assert_close(
        cross_entropy_sum(logits, targets), cross_entropy(logits, targets, reduction="sum")
    )


def test_a_scale_beyond_16_bits_reaches_the_gradient():
    """The factor of a loss scaler may exceed fp16's largest number although the product does not."""
    logits = torch.tensor([[12.0, 0.0]], dtype=torch.float16, requires_grad=True)
    (cross_entropy_sum(logits, torch.tensor([0])) * 2.0**20).backward()
    torch.testing.assert_close(logits.grad[0, 1].item(), 6.442, rtol=5e-3, atol=0)


def test_16_bit_logits_are_summed_in_fp32():
    """The loss of bf16 logits is the fp32 loss of the same numbers; the gradient comes back in bf16."""
    logits = torch.randn(600, 50, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.randint(0, 50, (600,))
    total = cross_entropy_sum(logits, targets)
    total.backward()
    assert total.dtype == torch.float32
    assert logits.grad.dtype == torch.bfloat16
    torch.testing.assert_close(total, cross_entropy(logits.float(), targets, reduction="sum"))


@pytest.mark.parametrize("of_head", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_entropies_are_those_of_the_distributions(monkeypatch, of_head, dtype, tolerance):
    """Also of one that is certain; the log-probabilities are the same to the last bit."""
    monkeypatch.setattr(blocks, "LOSS_ROWS", 48)
    monkeypatch.setitem(blocks.LOSS_BLOCK, "cpu", 0)
    monkeypatch.setitem(blocks.SOFTMAX_PART, "cpu", 3 * 4 * 11)
    head = torch.nn.Linear(5, 11, dtype=dtype)
    hidden = torch.randn(130, 5, dtype=dtype) * torch.linspace(0, 30, 130, dtype=dtype)[:, None]
    hidden[-1] *= 1000
    hidden.requires_grad_()
    targets = torch.randint(0, 11, (130,))
    logits = head(hidden)
    wanted = torch.distributions.Categorical(logits=logits.double()).entropy()
    if of_head:
        logprobs, found = head_logprobs_and_entropies(hidden, head, targets)
        assert torch.equal(logprobs, head_logprobs(hidden, head, targets))
        assert logprobs.requires_grad
    else:
        found = entropies_of(logits, targets)
    assert not found.requires_grad
    assert (found - wanted).abs().max() < tolerance
