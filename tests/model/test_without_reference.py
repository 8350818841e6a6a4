"""ORPO, SimPO and CPO against plain torch in float64: stock transformers, each answer alone."""

import copy
import math

import pytest
import torch
from peft import LoraConfig

from tests.model import plain_preferences as plain
from tests.model.conftest import pack_of
from tests.model.test_dpo import adapted
from xtuner.dataset.collate_fns.preference_collate_fn import preference_collate_fn
from xtuner.errors import ConfigError
from xtuner.model.cpo import CPO
from xtuner.model.orpo import ORPO
from xtuner.model.preference_losses import log_odds
from xtuner.model.simpo import SimPO

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def plain_orpo(sums, lengths, beta):
    p = (sums / lengths).exp()
    odds = p / (1 - p)
    ratio = odds[0::2] / odds[1::2]
    return -p[0::2].log() - beta * plain.sig(ratio.log()).log(), beta * p.log(), ratio


def plain_simpo(sums, lengths, beta, gamma, smoothing, weight):
    rewards = beta * sums / lengths
    losses = plain.DPO["sigmoid"](rewards[0::2] - gamma, rewards[1::2], 1, smoothing)
    return losses - weight * (sums / lengths)[0::2], rewards, None


def plain_cpo(sums, lengths, beta, kind, smoothing, weight):
    logprobs = sums / lengths if kind == "ipo" else sums
    losses = plain.DPO[kind](logprobs[0::2], logprobs[1::2], beta, smoothing)
    return losses - weight * (sums / lengths)[0::2], beta * logprobs, None


CASES = [
    (ORPO, {"beta": 0.3}, lambda s, n: plain_orpo(s, n, 0.3)),
    (SimPO, {}, lambda s, n: plain_simpo(s, n, 2.0, 1.0, 0.0, 0.0)),
    (
        SimPO,
        {"beta": 3.0, "gamma": 0.5, "label_smoothing": 0.1, "sft_weight": 0.2},
        lambda s, n: plain_simpo(s, n, 3.0, 0.5, 0.1, 0.2),
    ),
    (CPO, {}, lambda s, n: plain_cpo(s, n, 0.1, "sigmoid", 0.0, 1.0)),
    (CPO, {"label_smoothing": 0.1}, lambda s, n: plain_cpo(s, n, 0.1, "sigmoid", 0.1, 1.0)),
    (CPO, {"loss_type": "hinge", "sft_weight": 0.5}, lambda s, n: plain_cpo(s, n, 0.1, "hinge", 0.0, 0.5)),
    (CPO, {"loss_type": "ipo", "beta": 0.4}, lambda s, n: plain_cpo(s, n, 0.4, "ipo", 0.0, 1.0)),
]
by_case = pytest.mark.parametrize(("method", "settings", "formula"), CASES)


@pytest.fixture
def softer(llama):
    """A model whose answers are not all as good as impossible."""
    with torch.no_grad():
        llama.lm_head.weight.mul_(0.1)
    return llama


@pytest.mark.parametrize("lora", [False, True])
@by_case
def test_loss_metrics_and_gradients_equal_plain_torch(
    softer, items, method, settings, formula, lora, gradients, relative_error
):
    """Of all weights, and of an adapter."""
    policy = adapted(copy.deepcopy(softer)) if lora else copy.deepcopy(softer)
    with plain.exact_norms():
        sums, lengths = plain.sums(policy, items)
        losses, rewards, ratio = formula(sums, lengths)
        of_means = method is not CPO or settings.get("loss_type") == "ipo"
        metrics = plain.answer_metrics(policy, items, of_means)
        (losses.sum() / 3).backward()
    given = {"lora": LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"])} if lora else {}
    model = method(softer, **given, **settings).train()
    model.llm.load_state_dict(policy.state_dict())
    data = preference_collate_fn(items)["data"]
    outputs = model(data, num_items=model.num_items(data))
    outputs["loss"].backward()
    assert outputs["loss"].item() == pytest.approx(losses.sum().item() / 3, rel=1e-11)
    c, r = rewards.view(-1, 2).T
    wanted = [c, r, (c > r).double(), c - r]
    wanted += metrics
    if ratio is not None:
        wanted += [plain.sig(ratio.log()).log(), ratio.log()]
    wanted.append(-(sums / lengths)[0::2])
    found = torch.stack([outputs["sums"][name] for name in model.metrics])
    torch.testing.assert_close(found, torch.stack([x.detach().sum() for x in wanted]), rtol=1e-9, atol=1e-11)
    ours, theirs = gradients(model.llm), gradients(policy)
    assert ours.keys() == theirs.keys()
    assert max(relative_error(ours[n], theirs[n]) for n in ours) < 1e-8


def eight_pairs():
    """Eight packs of a pair each."""
    generator = torch.Generator().manual_seed(5)
    return [pack_of((4 + number % 3, 5 + number % 2), generator) for number in range(8)]


@by_case
def test_any_split_of_an_update_gives_the_same(softer, method, settings, formula, gradients):
    """One batch of eight pairs, two of four, eight of one: the same loss, metrics and gradient."""
    model = method(softer, **settings).train()
    found = []
    for size in (8, 4, 1):
        model.zero_grad()
        totals = dict.fromkeys(("loss", *model.metrics), 0.0)
        for start in range(0, 8, size):
            items = eight_pairs()[start : start + size]
            outputs = model(preference_collate_fn(items)["data"], num_items=8)
            outputs["loss"].backward()
            totals["loss"] += outputs["loss"].item()
            for name in model.metrics:
                totals[name] += outputs["sums"][name].item()
        found.append((totals, gradients(model.llm)))
    for totals, grads in found[1:]:
        assert totals == pytest.approx(found[0][0], rel=1e-10)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, found[0][1][name], rtol=1e-9, atol=1e-12)


def test_log_odds_are_exact_and_finite():
    """Probabilities 1/2, 3/4, 1e-30, and 1 up to rounding."""
    given = torch.tensor([0.5, 0.75, 1e-30, 1.0], dtype=torch.float64).log().requires_grad_()
    found = log_odds(given)
    assert found[:3].tolist() == pytest.approx([0.0, math.log(3), -30 * math.log(10)], abs=1e-12)
    assert found[3] > 30
    found.sum().backward()
    assert given.grad[:3].tolist() == pytest.approx([2.0, 4.0, 1.0], rel=1e-12)
    assert given.grad[3] == 0
    narrow = torch.tensor([0.0, -1e-9, -90.0], requires_grad=True)
    log_odds(narrow).sum().backward()
    assert narrow.grad.isfinite().all()


@pytest.mark.parametrize(
    ("method", "wrong", "message"),
    [
        (ORPO, {"beta": 0}, "model.beta is 0, but must be above 0"),
        (SimPO, {"beta": -2}, "model.beta is -2, but must be above 0"),
        (SimPO, {"gamma": -1}, "model.gamma is -1, but must be at least 0"),
        (SimPO, {"label_smoothing": 0.7}, "model.label_smoothing is 0.7"),
        (CPO, {"loss_type": "simpo"}, "model.loss_type is 'simpo', but must be one of: sigmoid, hinge, ipo"),
        (CPO, {"loss_type": "ipo", "label_smoothing": 0.1}, "but loss_type 'ipo' has none: set it to 0"),
        (CPO, {"sft_weight": -1}, "model.sft_weight is -1, but must be at least 0"),
    ],
)
def test_settings_that_cannot_be_are_named_before_a_model_is_loaded(method, wrong, message):
    with pytest.raises(ConfigError, match=message):
        method({"type": "not looked at"}, **wrong)


@pytest.mark.parametrize("method", [ORPO, SimPO, CPO])
def test_data_without_pairs_is_named(llama, batch, method):
    with pytest.raises(ConfigError, match=f"{method.__name__} trains on pairs of answers: set dataset = "):
        method(llama).num_items(batch)
