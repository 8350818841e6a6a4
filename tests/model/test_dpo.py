"""DPO against plain torch in float64: stock transformers, each answer alone, two copies of the model."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.model import plain_preferences as plain
from xtuner.dataset.collate_fns.preference_collate_fn import preference_collate_fn
from xtuner.errors import ConfigError
from xtuner.model.dpo import DPO
from xtuner.model.language_model import TokenLogprobs
from xtuner.model.loss import head_logprobs
from xtuner.model.packed import pack
from xtuner.model.pairs import REWARDS, Answers, log_ratio_squares, sum_by_sample
from xtuner.model.preference_losses import DPO_LOSSES
from xtuner.model.reference import AdapterOff

BETA = 0.3

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def adapted(llama):
    """The model with an adapter that changes its answers, as peft makes it."""
    torch.manual_seed(1)
    model = get_peft_model(llama, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.double()


def plain_dpo(policy, base, items, smoothing, name="sigmoid", divergence="reverse_kl", means=False, rpo=0):
    """Sum of losses and of the metrics over all pairs."""
    with torch.no_grad():
        before, lengths = plain.sums(base, items)
    now, _ = plain.sums(policy, items)
    scale = 1 / lengths if means or name == "ipo" else torch.ones_like(lengths)
    ratios, means_of_tokens = now - before, now / lengths
    scores = plain.f_prime(ratios, divergence) * scale
    if name == "aot":
        c, r = ((x[0::2] - x[1::2]).sort()[0] for x in (now * scale, before * scale))
        losses = plain.DPO["sigmoid"](c, r, BETA, smoothing)
    else:
        losses = plain.DPO[name](scores[0::2], scores[1::2], BETA, smoothing)
    losses = losses - rpo * means_of_tokens[0::2]
    c, r = (BETA * ratios * scale).detach().view(-1, 2).T
    sums = [c, r, (c > r).double(), c - r]
    sums += plain.answer_metrics(policy, items, means or name == "ipo")
    sums.append(plain.half_squares(policy, base, items))
    sums += [-means_of_tokens[0::2].detach()] if rpo else []
    return losses.sum(), torch.stack([x.sum() for x in sums])


def trained_like(llama, policy, **kwargs):
    """DPO with the weights of `policy`'s adapter."""
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"])
    model = DPO(llama, lora=lora, beta=BETA, **kwargs).train()
    state = {n: p for n, p in policy.named_parameters() if "lora_" in n}
    own = dict(model.llm.named_parameters())
    with torch.no_grad():
        for name, parameter in state.items():
            own[name].data = parameter.detach().clone()
    return model


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_metrics_and_gradients_equal_plain_torch(
    llama, items, recompute, smoothing, gradients, relative_error
):
    """Packing, switching off the adapter and blocks of the head have no effect on the result."""
    base, policy = copy.deepcopy(llama), adapted(copy.deepcopy(llama))
    with plain.exact_norms():
        wanted, wanted_sums = plain_dpo(policy, base, items, smoothing)
        (wanted / 3).backward()
    model = trained_like(llama, policy, label_smoothing=smoothing, use_activation_checkpointing=recompute)
    data = preference_collate_fn(items)["data"]
    outputs = model(data, num_items=model.num_items(data))
    outputs["loss"].backward()
    assert model.num_items(data) == 3
    assert abs(outputs["loss"].item() - wanted.item() / 3) < 1e-12
    sums = torch.stack([outputs["sums"][name] for name in model.metrics])
    torch.testing.assert_close(sums, wanted_sums, rtol=1e-10, atol=1e-12)
    ours, theirs = gradients(model.llm), gradients(policy)
    assert ours.keys() == theirs.keys()
    assert all("lora_" in name for name in ours)
    assert max(relative_error(ours[n], theirs[n]) for n in ours) < 1e-9


SETTINGS = [
    *({"loss_type": name} for name in DPO_LOSSES),
    {"loss_type": "robust", "label_smoothing": 0.2},
    {"loss_type": "exo_pair", "label_smoothing": 0.2},
    {"length_normalized": True},
    {"loss_type": "aot", "length_normalized": True},
    {"rpo_alpha": 0.7},
    {"f_divergence_type": "forward_kl"},
    {"f_divergence_type": "js_divergence", "loss_type": "hinge"},
    {"f_divergence_type": "alpha_divergence", "loss_type": "ipo"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
def test_every_loss_and_its_gradients_equal_plain_torch(llama, items, settings, gradients, relative_error):
    """Of packed pairs in one batch; the weighted supervised term is the mean over the chosen tokens."""
    base, policy = copy.deepcopy(llama), adapted(copy.deepcopy(llama))
    with plain.exact_norms():
        wanted, wanted_sums = plain_dpo(
            policy,
            base,
            items,
            settings.get("label_smoothing", 0.0),
            settings.get("loss_type", "sigmoid"),
            settings.get("f_divergence_type", "reverse_kl"),
            settings.get("length_normalized", False),
            settings.get("rpo_alpha", 0),
        )
        (wanted / 3).backward()
    model = trained_like(llama, policy, **settings)
    outputs = model(preference_collate_fn(items)["data"])
    outputs["loss"].backward()
    assert outputs["loss"].item() == pytest.approx(wanted.item() / 3, rel=1e-10)
    assert outputs["sums"].keys() == set(model.metrics)
    sums = torch.stack([outputs["sums"][name] for name in model.metrics])
    torch.testing.assert_close(sums, wanted_sums, rtol=1e-9, atol=1e-11)
    ours, theirs = gradients(model.llm), gradients(policy)
    assert ours.keys() == theirs.keys()
    assert max(relative_error(ours[n], theirs[n]) for n in ours) < 1e-8


def test_the_reference_may_have_its_tokens_in_another_order(items):
    """As one whose family runs each sample by itself; each token is compared with itself."""
    packed = pack(preference_collate_fn(items)["data"], torch.device("cpu"))
    count = len(packed.positions)
    now, before = torch.randn(2, count, dtype=torch.float64)
    order = torch.randperm(count)

    def answers(logprobs, positions):
        nothing = logprobs.new_zeros(0)
        return Answers(nothing, nothing, tokens=TokenLogprobs(logprobs, positions))

    wanted = sum_by_sample((now - before) ** 2 / 2, packed.positions, packed, None)
    found = log_ratio_squares(
        answers(now, packed.positions), answers(before[order], packed.positions[order.numpy()]), packed, None
    )
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_an_untrained_adapter_has_no_preference(llama, items, dtype, monkeypatch):
    """All rewards are 0, to the last bit, and the loss is log 2."""
    monkeypatch.setattr("xtuner.model.loading.cpu_computes_in_bf16", lambda: True)
    model = DPO(llama.to(dtype), lora=LoraConfig(r=4, lora_dropout=0.0)).train()
    outputs = model(preference_collate_fn(items)["data"])
    assert outputs["loss"].item() == pytest.approx(torch.log(torch.tensor(2.0)).item(), rel=1e-6)
    assert {name: outputs["sums"][name].item() for name in (*REWARDS, "kl")} == dict.fromkeys(
        (*REWARDS, "kl"), 0.0
    )


def test_the_reference_has_no_dropout_and_restores_the_model(llama):
    """For a model with attention dropout, which is in training mode before and after."""
    llama.config.attention_dropout = 0.5
    for layer in llama.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model = DPO(llama, lora=LoraConfig(r=4, lora_dropout=0.5)).train()
    modes = [module.training for module in model.modules()]
    trained = [parameter.requires_grad for parameter in model.parameters()]
    ids = torch.arange(3, 12)[None]
    with AdapterOff(model.llm).active():
        first, second = (model.llm(input_ids=ids).logits for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert [module.training for module in model.modules()] == modes == [True] * len(modes)
    assert [parameter.requires_grad for parameter in model.parameters()] == trained


def test_batches_of_an_update_add_up(llama, items):
    """Two batches divided by their common number of pairs have the loss of one batch with all."""
    policy = adapted(copy.deepcopy(llama))
    model = trained_like(llama, policy)
    whole = model(preference_collate_fn(items)["data"])
    parts = [model(preference_collate_fn([item])["data"], num_items=3) for item in items]
    assert sum(part["loss"] for part in parts).item() == pytest.approx(whole["loss"].item(), rel=1e-12)
    for name in model.metrics:
        added = sum(part["sums"][name] for part in parts).item()
        assert added == pytest.approx(whole["sums"][name].item(), rel=1e-12)


def test_families_that_mix_packed_samples_have_the_same_loss(items, gradients, relative_error):
    """Bloom with slices of weights: each answer is run by itself, and its log-probabilities are summed."""
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    slices = {"slow_but_exact": True, "pretraining_tp": 2}
    config = BloomConfig(vocab_size=128, hidden_size=32, n_layer=2, n_head=4, **slices)
    bloom = BloomForCausalLM(config).double()
    lora = LoraConfig(r=4, target_modules=["query_key_value"])
    base = copy.deepcopy(bloom)
    torch.manual_seed(1)
    policy = get_peft_model(copy.deepcopy(bloom), lora).double()
    for name, parameter in policy.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    wanted, wanted_sums = plain_dpo(policy, base, items, 0.0)
    wanted.backward()
    model = DPO(bloom, lora=copy.deepcopy(lora), beta=BETA).train()
    own = dict(model.llm.named_parameters())
    for name, parameter in policy.named_parameters():
        if "lora_" in name:
            own[name].data = parameter.detach().clone()
    outputs = model(preference_collate_fn(items)["data"], num_items=1)
    outputs["loss"].backward()
    assert outputs["loss"].item() == pytest.approx(wanted.item(), rel=1e-10)
    sums = torch.stack([outputs["sums"][name] for name in model.metrics])
    torch.testing.assert_close(sums, wanted_sums, rtol=1e-10, atol=1e-12)
    ours, theirs = gradients(model.llm), gradients(policy)
    assert max(relative_error(ours[n], theirs[n]) for n in ours) < 1e-9


@pytest.mark.parametrize("bias", [False, True])
def test_log_probabilities_by_blocks_have_the_gradients_of_plain_torch(bias, monkeypatch):
    """Three blocks, of hidden states, a trained head and its bias."""
    monkeypatch.setattr("xtuner.model.loss.loss_block", lambda *args: 32)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(70, 16, dtype=torch.float64, generator=generator, requires_grad=True)
    head = torch.nn.Linear(16, 50, bias=bias).double()
    targets = torch.randint(0, 50, (70,), generator=generator)
    weights = torch.randn(70, dtype=torch.float64, generator=generator)
    inputs = [hidden, *head.parameters()]
    ours = head_logprobs(hidden, head, targets)
    theirs = head(hidden).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    found, wanted = (torch.autograd.grad((x * weights).sum(), inputs) for x in (ours, theirs))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_data_without_pairs_is_named(llama, batch):
    with pytest.raises(ConfigError, match="DPO trains on pairs of answers: set dataset = "):
        DPO(llama, lora=LoraConfig(r=4)).num_items(batch)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"beta": 0}, "model.beta is 0, but must be above 0: the usual value is 0.1"),
        ({"beta": -1.5}, "model.beta is -1.5, but must be above 0"),
        ({"loss_type": "bpo"}, "model.loss_type is 'bpo', but must be one of: sigmoid, robust, hinge, ipo, "),
        ({"label_smoothing": 0.5}, "model.label_smoothing is 0.5, but must be at least 0 and below 0.5"),
        (
            {"label_smoothing": 0.1, "loss_type": "hinge"},
            "model.label_smoothing is 0.1, but loss_type 'hinge' has none: set it to 0",
        ),
        ({"rpo_alpha": -1}, "model.rpo_alpha is -1, but must be at least 0"),
        ({"f_divergence_type": "kl"}, "model.f_divergence_type is 'kl', but must be one of: reverse_kl, "),
        (
            {"f_divergence_type": "js_divergence", "loss_type": "aot"},
            "model.f_divergence_type is 'js_divergence', but loss_type 'aot' has only 'reverse_kl'",
        ),
    ],
)
def test_invalid_settings_are_named_before_a_model_is_loaded(wrong, message):
    with pytest.raises(ConfigError, match=message):
        DPO({"type": "not looked at"}, **wrong)
