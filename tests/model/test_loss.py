import torch
from torch.nn.functional import cross_entropy

from xtuner.model import loss
from xtuner.model.loss import cross_entropy_sum, trained_positions


def test_a_position_is_trained_on_the_next_token_of_its_own_sample():
    """The first token of a sample is nobody's target, however its label reads."""
    labels = torch.tensor([10, 11, 12, 20, 21])
    positions, targets = trained_positions(labels, [0, 3, 5])
    assert positions.tolist() == [0, 1, 3]
    assert targets.tolist() == [11, 12, 21]


def test_labels_of_minus_100_are_not_trained():
    """-100 anywhere leaves that token out."""
    positions, targets = trained_positions(torch.tensor([1, -100, 3, -100]), torch.tensor([0, 4]))
    assert positions.tolist() == [1]
    assert targets.tolist() == [3]


def test_the_sum_and_its_gradient_are_those_of_torch(monkeypatch):
    """Chunks change neither the loss nor the gradient."""
    monkeypatch.setattr(loss, "CHUNK", 3)
    logits = torch.randn(8, 11, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 11, (8,))
    (cross_entropy_sum(logits, targets) / 5).backward()
    ours, logits.grad = logits.grad, None
    (cross_entropy(logits, targets, reduction="sum") / 5).backward()
    torch.testing.assert_close(ours, logits.grad)
    torch.testing.assert_close(
        cross_entropy_sum(logits, targets), cross_entropy(logits, targets, reduction="sum")
    )


def test_16_bit_logits_are_summed_in_fp32():
    """The loss of bf16 logits is the fp32 loss of the same numbers; the gradient comes back in bf16."""
    logits = torch.randn(600, 50, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.randint(0, 50, (600,))
    total = cross_entropy_sum(logits, targets)
    total.backward()
    assert total.dtype == torch.float32
    assert logits.grad.dtype == torch.bfloat16
    torch.testing.assert_close(total, cross_entropy(logits.float(), targets, reduction="sum"))
