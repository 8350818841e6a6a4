"""GRPO against its formulas in plain torch and float64: stock transformers, each answer alone."""

import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig

from tests.model import plain_preferences as plain
from tests.model.test_dpo import adapted
from xtuner.dataset.collate_fns import flat_collate_fn
from xtuner.errors import ConfigError
from xtuner.model import GRPO
from xtuner.model.grpo import LOSSES

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
LOW, HIGH, LONGEST = 0.1, 0.3, 9
ADVANTAGES = [1.2, -0.7, 0.0, 0.4, -1.5, 0.9]


def plain_logprobs(model, sample, temperature=1.0):
    """The log-probability of each token of an answer, and the entropy of its distribution."""
    logits = plain.logits(model, *sample) / temperature
    labels = sample[1]
    targets = labels[1:][labels[1:] != -100]
    entropy = torch.distributions.Categorical(logits=logits.detach()).entropy()
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0], entropy


def plain_grpo(kind, policy, base, items, olds, beta, temperature):
    """The loss of an update, and the sums of clip share, entropy and KL over its items."""
    losses, lengths, seen = [], [], []
    for sample, old, advantage in zip(plain.samples(items), olds, ADVANTAGES, strict=True):
        now, entropy = plain_logprobs(policy, sample, temperature)
        with torch.no_grad():
            before, _ = plain_logprobs(base, sample, temperature)
        ratio = of_token = (now - (now.detach() if old is None else old)).exp()
        if kind == "gspo":
            ratio = (now - (now.detach() if old is None else old)).mean().exp().expand(len(now))
        kl = (before - now).exp() - (before - now) - 1
        if kind == "cispo":
            loss = [-min(r.item(), 1 + HIGH) * advantage * p for r, p in zip(ratio, now, strict=True)]
            clipped = [float(r > 1 + HIGH and advantage > 0) for r in ratio]
        else:
            loss = [-min(r * advantage, max(min(r, 1 + HIGH), 1 - LOW) * advantage) for r in ratio]
            clipped = [
                float((r > 1 + HIGH and advantage > 0) or (r < 1 - LOW and advantage < 0)) for r in ratio
            ]
        loss = torch.stack([torch.as_tensor(x, dtype=torch.float64) for x in loss]) + beta * of_token * kl
        losses.append(loss)
        lengths.append(len(now))
        seen.append((torch.tensor(clipped).double(), entropy, kl.detach()))
    if kind in ("dapo", "cispo"):
        return torch.cat(losses).mean(), [torch.cat(x).sum() for x in zip(*seen, strict=True)], sum(lengths)
    sums = [torch.stack([v.mean() for v in x]).sum() for x in zip(*seen, strict=True)]
    if kind == "dr_grpo":
        return torch.cat(losses).sum() / (len(losses) * LONGEST), sums, len(losses)
    return torch.stack([x.mean() for x in losses]).mean(), sums, len(losses)


def batch_of(items, olds, advantages=ADVANTAGES, temperature=1.0):
    """The packs of answers as one batch, as rollouts make it."""
    data = flat_collate_fn(items)["data"] | {"max_new_tokens": LONGEST, "temperature": temperature}
    data["advantages"] = torch.tensor(advantages, dtype=torch.float64)
    return data if olds[0] is None else {**data, "old_logprobs": torch.cat(olds)}


def olds_of(model, items, temperature=1.0):
    """Log-probabilities of tokens from when weights were others: ratios on both sides of both bounds."""
    torch.manual_seed(5)
    with torch.no_grad():
        found = [plain_logprobs(model, sample, temperature)[0] for sample in plain.samples(items)]
    return [x + 0.4 * torch.randn(1 + len(x), dtype=x.dtype).cumsum(0)[1:] for x in found]


CASES = [
    *((kind, 0.0, 1.0, True) for kind in LOSSES),
    *((kind, 0.2, 1.0, True) for kind in LOSSES),
    ("dapo", 0.2, 0.7, True),
    ("dapo", 0.2, 1.0, False),
    ("gspo", 0.0, 1.0, False),
]


@pytest.mark.parametrize(("kind", "beta", "temperature", "changed"), CASES)
def test_loss_metrics_and_gradients_equal_plain_torch(
    llama, items, kind, beta, temperature, changed, gradients, relative_error
):
    """With an adapter, whose base is the reference; the first update after sampling has ratios of 1."""
    base, policy = copy.deepcopy(llama), adapted(copy.deepcopy(llama))
    with plain.exact_norms():
        olds = olds_of(policy, items, temperature) if changed else [None] * len(ADVANTAGES)
        wanted, wanted_sums, count = plain_grpo(kind, policy, base, items, olds, beta, temperature)
        wanted.backward()
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"])
    model = GRPO(llama, loss_type=kind, epsilon=LOW, epsilon_high=HIGH, beta=beta, lora=lora).train()
    model.llm.load_state_dict(policy.state_dict())
    data = batch_of(items, olds, temperature=temperature)
    assert model.num_items(data) == count
    outputs = model(data)
    outputs["loss"].backward()
    assert outputs["loss"].item() == pytest.approx(wanted.item(), rel=1e-10)
    assert model.metrics == ("clip_share", "entropy", "kl")[: 3 if beta else 2]
    sums = torch.stack([outputs["sums"][name].double() for name in model.metrics])
    torch.testing.assert_close(sums, torch.stack(wanted_sums)[: len(sums)], rtol=1e-9, atol=1e-11)
    assert not changed or 0 < sums[0] < count
    ours, theirs = gradients(model.llm), gradients(policy)
    assert ours.keys() == theirs.keys()
    assert max(relative_error(ours[n], theirs[n]) for n in ours) < 1e-8


def test_a_model_of_its_own_is_the_reference_of_all_weights(llama, items):
    """KL to `ref_llm`, which no gradient reaches; without `beta` there is no second model."""
    reference = copy.deepcopy(llama)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.mul_(1.05)
    with plain.exact_norms():
        wanted, _, _ = plain_grpo("grpo", llama, reference, items, [None] * 6, 0.3, 1.0)
        value = wanted.item()
    assert GRPO(copy.deepcopy(llama)).parts().keys() == {"llm"}
    model = GRPO(llama, ref_llm=reference, loss_type="grpo", beta=0.3).train()
    loss = model(batch_of(items, [None]))["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(value, rel=1e-10)
    assert all(p.grad is None for p in model.reference.parameters())


@pytest.mark.parametrize("kind", LOSSES)
def test_answers_may_be_divided_in_any_way(llama, items, kind, gradients):
    """Two batches divided by the items of both have the loss and the gradients of one; one may be empty."""
    model = GRPO(llama, loss_type=kind, beta=0.1, lora=LoraConfig(r=4)).train()
    for name, parameter in model.llm.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    with plain.exact_norms():
        olds = olds_of(model.llm, items)
    whole = batch_of(items, olds)
    count = model.num_items(whole)
    loss = model(whole)["loss"]
    loss.backward()
    expected = gradients(model.llm)
    model.zero_grad()
    nothing = {"input_ids": np.zeros(1, np.int64), "labels": np.full(1, -100), "cumulative_len": [0, 1]}
    parts = [
        batch_of(items[:1], olds[:4], ADVANTAGES[:4]),
        batch_of(items[1:], olds[4:], ADVANTAGES[4:]),
        batch_of([nothing], [torch.zeros(0)], []),
    ]
    losses = [model(part, num_items=count)["loss"] for part in parts]
    for part in losses:
        part.backward()
    assert sum(map(model.num_items, parts)) == count
    assert sum(part.item() for part in losses) == pytest.approx(loss.item(), rel=1e-11)
    for name, grad in gradients(model.llm).items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-9, atol=1e-12)


def test_the_log_probabilities_of_sampling_are_without_dropout(llama, items):
    """Mode "sampled" gives those of the model with its adapter, in the order of the batch."""
    model = GRPO(llama, lora=LoraConfig(r=4, lora_dropout=0.5)).train()
    for name, parameter in model.llm.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    found = model(batch_of(items, [None], temperature=0.5), mode="sampled")
    model.eval()
    with plain.exact_norms(), torch.no_grad():
        wanted = [plain_logprobs(model.llm, sample, 0.5)[0] for sample in plain.samples(items)]
    torch.testing.assert_close(found, torch.cat(wanted), rtol=1e-10, atol=1e-12)
    assert not found.requires_grad


def test_wrong_settings_are_named(llama):
    """In one line that names the setting."""
    with pytest.raises(ConfigError, match=r"model.loss_type is 'ppo', but must be one of: dapo, grpo"):
        GRPO({"type": "not looked at"}, loss_type="ppo")
    with pytest.raises(ConfigError, match=r"model.epsilon is -1, but must be at least 0"):
        GRPO({"type": "not looked at"}, epsilon=-1)
    with pytest.raises(ConfigError, match=r"model.ref_llm is not used with beta = 0"):
        GRPO({"type": "not looked at"}, ref_llm={})
    with pytest.raises(ConfigError, match="sequence_parallel_size: GRPO cannot train on parts of a sequence"):
        GRPO(llama).enable_sequence_parallel(None)
