"""Reward models against plain torch in float64, and against what transformers makes of them."""

import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.model import plain_preferences as plain
from tests.model.conftest import assert_splits_alike
from xtuner.dataset.collate_fns.preference_collate_fn import preference_collate_fn
from xtuner.errors import ConfigError
from xtuner.model.preference_losses import PENALTIES, REWARD_LOSSES
from xtuner.model.reward import RewardModel

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
REWARD_TOKEN = 127

PLAIN = {
    "ranking": lambda d: -plain.sig(d).log(),
    "focal": lambda d: -((1 - 2 * torch.clamp(plain.sig(d) - 0.5, min=0)) ** 2) * plain.sig(d).log(),
}
PLAIN_PENALTIES = {
    "log_barrier": lambda x: -(x + 5).log() - (5 - x).log(),
    "L2": lambda x: x**2,
    "none": lambda x: 0 * x,
}


@pytest.fixture
def scorer(sizes):
    """A random Llama with a head of one number, in float64."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    model = LlamaForSequenceClassification(LlamaConfig(**sizes, num_labels=1)).double()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        model.score.weight.mul_(0.3)
    return model


@pytest.fixture
def ended(items):
    """The packs of pairs, each answer ended by the reward token, without a supervised token."""
    found = []
    for item in items:
        ids = item["input_ids"].copy()
        ids[np.array(item["cumulative_len"][1:]) - 1] = REWARD_TOKEN
        found.append({**item, "input_ids": ids, "labels": np.full_like(ids, -100)})
    return found


def plain_rewards(model, items):
    return torch.stack(
        [model(input_ids=ids[None], use_cache=False).logits[0, 0] for ids, _ in plain.samples(items)]
    )


def plain_loss(rewards, loss_type, penalty_type, weight):
    c, r = rewards[0::2], rewards[1::2]
    penalty = PLAIN_PENALTIES[penalty_type]
    return PLAIN[loss_type](c - r) + weight * torch.stack([penalty(c), penalty(r)]).mean(0)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("loss_type", REWARD_LOSSES)
@pytest.mark.parametrize("penalty_type", PENALTIES)
def test_loss_metrics_and_gradients_equal_plain_torch(
    scorer, ended, loss_type, penalty_type, lora, recompute, gradients, relative_error
):
    """Of all weights; with an adapter, of that and of the head."""
    settings = {"r": 4, "target_modules": ["q_proj", "v_proj", "up_proj"], "task_type": "SEQ_CLS"}
    policy = copy.deepcopy(scorer)
    if lora:
        torch.manual_seed(1)
        policy = get_peft_model(policy, LoraConfig(**settings))
        for name, parameter in policy.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        policy.double()
    with plain.exact_norms():
        rewards = plain_rewards(policy, ended)
        wanted = plain_loss(rewards, loss_type, penalty_type, 0.2).sum() / 3
        wanted.backward()
    model = RewardModel(
        scorer,
        lora=LoraConfig(**{**settings, "task_type": "FEATURE_EXTRACTION"}) if lora else None,
        use_activation_checkpointing=recompute,
        loss_type=loss_type,
        penalty_type=penalty_type,
        penalty_weight=0.2,
        reward_token_id=REWARD_TOKEN,
    ).train()
    model.llm.load_state_dict(policy.state_dict())
    model.double()
    assert model.llm.config.reward_token_id == REWARD_TOKEN
    data = preference_collate_fn(ended)["data"]
    assert model.num_items(data) == 3
    outputs = model(data, num_items=3)
    outputs["loss"].backward()
    assert outputs["loss"].item() == pytest.approx(wanted.item(), rel=1e-11)
    c, r = rewards.detach().view(-1, 2).T
    sums = {"acc": (c > r).sum(), "chosen_score_mean": c.sum(), "rejected_score_mean": r.sum()}
    lengths = torch.tensor([7 + 4 + 9, 5 + 6 + 8])
    sums |= {"score_margin": (c - r).sum(), "chosen_length": lengths[0], "rejected_length": lengths[1]}
    assert {n: v.item() for n, v in outputs["sums"].items()} == pytest.approx(
        {n: v.item() for n, v in sums.items()}, rel=1e-10
    )
    ours, theirs = gradients(model.llm), gradients(policy)
    assert ours.keys() == theirs.keys()
    assert any("score" in name for name in ours)
    assert max(relative_error(ours[n], theirs[n]) for n in ours) < 1e-8


def test_any_split_of_an_update_gives_the_same(scorer, ended, gradients):
    """Two batches divided by the pairs of both give the loss, metrics and gradient of one batch with all."""
    model = RewardModel(scorer, loss_type="focal").train()
    assert_splits_alike(model, preference_collate_fn, ended, 3, gradients)


def test_families_that_mix_packed_samples_give_the_same(ended):
    """Bloom with slices of weights: each answer is run by itself."""
    from transformers import BloomConfig, BloomForSequenceClassification

    torch.manual_seed(0)
    slices = {"slow_but_exact": True, "pretraining_tp": 2}
    config = BloomConfig(vocab_size=128, hidden_size=32, n_layer=2, n_head=4, num_labels=1, **slices)
    bloom = BloomForSequenceClassification(config).double()
    wanted = plain_rewards(bloom, ended)
    model = RewardModel(copy.deepcopy(bloom)).train()
    found = model(preference_collate_fn(ended)["data"], mode="predict")
    torch.testing.assert_close(torch.stack([f["scores"] for f in found])[:, 0], wanted, rtol=1e-9, atol=1e-12)


def test_a_penalty_pulls_back_from_beyond_its_bounds():
    """The barrier is that of the paper within them; a reward of 9 is finite and its gradient points down."""
    rewards = torch.tensor([-4.9, 0.0, 4.98, 9.0, -9.0], dtype=torch.float64, requires_grad=True)
    found = PENALTIES["log_barrier"](rewards)
    torch.testing.assert_close(found[:3], PLAIN_PENALTIES["log_barrier"](rewards[:3]), rtol=1e-12, atol=0)
    found.sum().backward()
    assert found.isfinite().all()
    assert rewards.grad[3] > 1
    assert rewards.grad[4] < -1


def of_folder(folder, **more):
    from transformers import AutoModelForCausalLM

    kind = AutoModelForCausalLM.from_pretrained
    return {"type": kind, "pretrained_model_name_or_path": str(folder), **more}


def test_a_causal_model_gets_a_head_of_zeros(llama_dir, ended):
    """All rewards are 0 at first; the head is trained whole with an adapter too, in fp32."""
    from transformers import BitsAndBytesConfig

    nf4 = {"type": BitsAndBytesConfig, "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    for more, lora in (
        ({}, None),
        ({"quantization_config": nf4}, LoraConfig(r=4, task_type="FEATURE_EXTRACTION")),
    ):
        model = RewardModel(of_folder(llama_dir, **more), lora=lora).train()
        outputs = model(preference_collate_fn(ended)["data"])
        assert [v.item() for v in outputs["sums"].values()][:4] == [0.0, 0.0, 0.0, 0.0]
        outputs["loss"].backward()
        heads = [p for n, p in model.named_parameters() if "score" in n and p.requires_grad]
        assert [(tuple(p.shape), p.dtype) for p in heads] == [((1, 64), torch.float32)]
        assert heads[0].grad.abs().sum() > 0
        assert any("score" in name for name in model.state_dict())
        assert not any("lora_" in n and "score" in n for n, _ in model.named_parameters())


def test_training_continues_from_a_saved_adapter(llama_dir, ended, tmp_path):
    """The head comes with it, and is trained on."""
    first = RewardModel(of_folder(llama_dir), lora=LoraConfig(r=2))
    for parameter in first.llm.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    first.llm.save_pretrained(tmp_path)
    second = RewardModel(of_folder(llama_dir), peft_model=str(tmp_path))
    data = preference_collate_fn(ended)["data"]
    scores = [[x["scores"].item() for x in m.eval()(data, mode="predict")] for m in (first, second)]
    assert scores[0] == scores[1]
    assert any("score" in name and p.requires_grad for name, p in second.named_parameters())


def test_wrong_data_and_settings_are_named(scorer, ended, llama, batch, saved):
    """A sample that does not end with the reward token, padding as reward token, no pairs, no head."""
    model = RewardModel(scorer, reward_token_id=5)
    message = (
        "model.reward_token_id is 5, but a sample ends with token 127: set is_reward = True and the same"
    )
    with pytest.raises(ConfigError, match=message):
        model.num_items(preference_collate_fn(ended)["data"])
    with pytest.raises(ConfigError, match="RewardModel trains on pairs of answers: set dataset = "):
        model.num_items(batch)
    with pytest.raises(
        ConfigError, match=r"model.reward_token_id is 0, the padding token, which has no score"
    ):
        RewardModel(scorer, reward_token_id=0)
    with pytest.raises(
        ConfigError, match=r"model.llm is a LlamaForCausalLM, which has no head 'score' of 1 out"
    ):
        RewardModel(llama)
    with pytest.raises(ConfigError, match=r"model.loss_type is 'hinge', but must be one of: ranking, focal"):
        RewardModel(scorer, loss_type="hinge")
    with pytest.raises(
        ConfigError, match=r"model.penalty_type is 'L1', but must be one of: log_barrier, L2, n"
    ):
        RewardModel(scorer, penalty_type="L1")
