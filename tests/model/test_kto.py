"""KTO against plain torch in float64: stock transformers, each answer alone, two copies of the model."""

import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig

from tests.model import plain_preferences as plain
from tests.model.test_dpo import adapted
from xtuner.dataset.collate_fns import flat_collate_fn
from xtuner.errors import ConfigError
from xtuner.model.kto import KTO, every_second
from xtuner.model.packed import pack

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
BETA = 0.3
WEIGHTS = (0.8, 1.5)


def batch_of(items, desirable):
    """The packs of answers as one batch, with their labels."""
    return {**flat_collate_fn(items)["data"], "desirable": torch.tensor(desirable)}


def plain_kto(policy, base, items, desirable, mismatched):
    """Sum of losses and of the metrics over all answers."""
    with torch.no_grad():
        before, _ = plain.sums(base, items)
    now, _ = plain.sums(policy, items)
    ratios, kl = now - before, torch.zeros(()).double()
    entropies = torch.stack([plain.entropies(policy, *sample).mean() for sample in plain.samples(items)])
    lengths = plain.sums(base, items)[1]
    if mismatched:
        kl = max(ratios[1::2].mean().detach(), kl)
        ratios, now, entropies, lengths = (x[0::2] for x in (ratios, now, entropies, lengths))
    losses, signed = [], []
    for ratio, good in zip(ratios, desirable, strict=True):
        value = plain.sig(BETA * (ratio - kl)) if good else plain.sig(BETA * (kl - ratio))
        losses.append(WEIGHTS[0 if good else 1] * (1 - value))
        signed.append(BETA * (ratio if good else -ratio).detach())
    signed = torch.stack(signed)
    sums = [signed.sum(), (signed > 0).double().sum(), kl * len(losses)]
    sums += [x.detach().sum() for x in (now, entropies, lengths)]
    return torch.stack(losses).sum(), torch.stack(sums)


@pytest.mark.parametrize(("lora", "sign"), [(False, 1), (False, -1), (True, 1)])
@pytest.mark.parametrize("mismatched", [False, True])
def test_loss_metrics_and_gradients_equal_plain_torch(
    llama, items, mismatched, lora, sign, gradients, relative_error
):
    """With and without mismatched answers; where the mean log-ratio is below 0, the KL is 0."""
    base = copy.deepcopy(llama)
    policy = adapted(copy.deepcopy(llama)) if lora else copy.deepcopy(llama)
    if not lora:
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    if sign < 0:
        base, policy = policy, base
    desirable = [True, False, True] if mismatched else [True, False, True, True, False, False]
    with plain.exact_norms():
        wanted, wanted_sums = plain_kto(policy, base, items, desirable, mismatched)
        (wanted / len(desirable)).backward()
    more = {"lora": LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"])} if lora else {}
    weights = dict(zip(("desirable_weight", "undesirable_weight"), WEIGHTS, strict=True))
    reference = None if lora else copy.deepcopy(base)
    model = KTO(llama, ref_llm=reference, beta=BETA, **weights, **more).train()
    model.llm.load_state_dict(policy.state_dict())
    data = batch_of(items, desirable)
    assert model.num_items(data) == len(desirable)
    outputs = model(data)
    outputs["loss"].backward()
    assert outputs["loss"].item() == pytest.approx(wanted.item() / len(desirable), rel=1e-10)
    sums = torch.stack([outputs["sums"][name].double() for name in model.metrics])
    torch.testing.assert_close(sums, wanted_sums, rtol=1e-9, atol=1e-11)
    ours, theirs = gradients(model.llm), gradients(policy)
    assert ours.keys() == theirs.keys()
    assert max(relative_error(ours[n], theirs[n]) for n in ours) < 1e-8


def test_answers_without_kl_may_be_split_in_any_way(llama, items):
    """Two batches divided by the answers of both give the loss of one batch with all."""
    model = KTO(llama, lora=LoraConfig(r=4), beta=BETA).train()
    for name, parameter in model.llm.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    labels = [True, False, False, True, True, False]
    whole = model(batch_of(items, labels))
    parts = [
        model(batch_of(items[:1], labels[:4]), num_items=6),
        model(batch_of(items[1:], labels[4:]), num_items=6),
    ]
    assert sum(part["loss"].item() for part in parts) == pytest.approx(whole["loss"].item(), rel=1e-11)
    for name in model.metrics:
        added = sum(part["sums"][name].item() for part in parts)
        assert added == pytest.approx(whole["sums"][name].item(), rel=1e-11)


def test_every_second_sample_is_a_batch(items):
    """Ids, boundaries, positions with a loss and targets of samples 1, 3, 5 alone."""
    packed = pack(flat_collate_fn(items)["data"], torch.device("cpu"))
    found = every_second(packed, 1)
    alone = [sample for number, sample in enumerate(plain.samples(items)) if number % 2]
    assert torch.equal(found.input_ids, torch.cat([ids for ids, _ in alone]))
    assert found.boundaries == [0, 5, 11, 19]
    targets = [labels[1:][labels[1:] != -100] for _, labels in alone]
    assert found.targets.tolist() == torch.cat(targets).tolist()
    assert np.array_equal(found.input_ids.numpy()[found.positions + 1], found.targets)


def test_wrong_settings_and_data_are_named(llama, batch):
    with pytest.raises(ConfigError, match="KTO trains on single answers with labels: set dataset = "):
        KTO(llama, lora=LoraConfig(r=4)).num_items(batch)
    with pytest.raises(ConfigError, match=r"model.beta is 0, but must be above 0"):
        KTO({"type": "not looked at"}, beta=0)
    with pytest.raises(ConfigError, match=r"model.undesirable_weight is -1, but must be at least 0"):
        KTO({"type": "not looked at"}, undesirable_weight=-1)
