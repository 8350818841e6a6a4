"""Each loss on preferences against its paper's formula in float64, and against numbers worked out by hand."""

import math

import pytest
import torch

from tests.model import plain_preferences as plain
from xtuner.model.preference_losses import (
    DIVERGENCES,
    DPO_LOSSES,
    OF_BATCH,
    SMOOTHED,
    Scores,
    score,
)

LN2 = math.log(2)


@pytest.fixture
def ratios():
    """Log-ratios of five pairs, some of them the wrong way round."""
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.randn(2, 5, dtype=torch.float64, generator=generator)


def of(chosen, rejected):
    return Scores(chosen, rejected, chosen - rejected, torch.zeros_like(chosen))


def same(ours, theirs, inputs):
    """Losses and their gradients agree."""
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    found, wanted = (torch.autograd.grad(x.sum(), inputs) for x in (ours, theirs))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", sorted(plain.DPO))
def test_losses_of_dpo_are_those_of_their_papers(name, smoothing, ratios):
    """Label smoothing changes those that have it, and no other."""
    inputs = [x.clone().requires_grad_() for x in ratios]
    wanted = plain.DPO[name](*inputs, 0.4, smoothing if name in plain.SMOOTHED else 0.0)
    same(DPO_LOSSES[name](of(*inputs), 0.4, smoothing), wanted, inputs)


def test_all_losses_are_compared():
    assert DPO_LOSSES.keys() == plain.DPO.keys() | {"aot"}
    assert SMOOTHED == plain.SMOOTHED


def test_aot_compares_sorted_margins():
    """Margins 1, 3 of the model and 2, 0 of the reference: 1 - 0 and 3 - 2."""
    one = torch.zeros(2, dtype=torch.float64)
    scores = Scores(one, one, torch.tensor([3.0, 1.0]).double(), torch.tensor([2.0, 0.0]).double())
    found = DPO_LOSSES["aot"](scores, 0.5, 0.0)
    assert found.tolist() == pytest.approx([math.log(1 + math.exp(-0.5))] * 2, rel=1e-12)


# Losses at beta 1 of a pair with log-ratios ln 3 and 0, so that sigmoid is 3/4 and 1/2.
BY_HAND = {
    "sigmoid": math.log(4 / 3),
    "robust": math.log(4 / 3),
    "hinge": 0.0,
    "ipo": (math.log(3) - 0.5) ** 2,
    "kto_pair": 0.5 * (1 - 3 / 4) + 0.5 * (1 - 3 / 4),
    "sppo_hard": (math.log(3) - 0.5) ** 2 + 0.25,
    "nca_pair": math.log(4 / 3) + 0.5 * math.log(4) + 0.5 * LN2,
    "exo_pair": 0.75 * math.log(0.75 / 0.999) + 0.25 * math.log(0.25 / 0.001),
    "aot": math.log(4 / 3),
    "aot_pair": math.log(4 / 3),
    "aot_unpaired": math.log(4 / 3),
    "apo_zero": 1 / 4 + 1 / 2,
    "apo_down": 3 / 4 + 1 / 4,
    "discopop": 1 / 3,
}


@pytest.mark.parametrize("name", sorted(DPO_LOSSES))
def test_losses_of_one_pair_worked_out_by_hand(name):
    """Alone in its batch, a pair has the sigmoid loss by optimal transport too."""
    chosen, rejected = torch.tensor([math.log(3)]).double(), torch.zeros(1).double()
    assert DPO_LOSSES[name](of(chosen, rejected), 1.0, 0.0).item() == pytest.approx(BY_HAND[name], rel=1e-6)


@pytest.mark.parametrize("name", sorted(set(DPO_LOSSES) - OF_BATCH))
def test_a_pair_has_the_same_loss_in_any_batch(name, ratios):
    together = DPO_LOSSES[name](of(*ratios), 0.4, 0.0)
    alone = [DPO_LOSSES[name](of(*ratios[:, i : i + 1]), 0.4, 0.0) for i in range(5)]
    assert together.tolist() == torch.cat(alone).tolist()


@pytest.mark.parametrize("name", sorted(DPO_LOSSES))
@pytest.mark.parametrize("far", [300.0, -300.0])
def test_losses_far_out_are_finite(name, far):
    """In fp32, of answers that became e^300 times as likely or unlikely."""
    chosen, rejected = torch.tensor([far], requires_grad=True), torch.tensor([-far])
    loss = DPO_LOSSES[name](of(chosen, rejected), 1.0, 0.0).sum()
    loss.backward()
    assert loss.isfinite()
    assert chosen.grad.isfinite().all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_scores_are_the_derivatives_of_divergences(name, ratios):
    """Nothing where both models agree, so that means over unequal lengths are fair."""
    inputs = [ratios.clone().requires_grad_()]
    same(score(inputs[0], name, 0.3), plain.f_prime(inputs[0], name, 0.3), inputs)
    assert score(torch.zeros(1), name, 0.3).abs() < 1e-7


def test_the_alpha_divergence_at_1_is_the_reverse_kl(ratios):
    assert torch.equal(score(ratios, "alpha_divergence", 1.0), ratios)
    assert torch.equal(score(ratios, "alpha_divergence", 0.0), score(ratios, "forward_kl"))
    assert score(torch.tensor([-300.0]), "forward_kl").isfinite()
