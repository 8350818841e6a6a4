"""DPO against plain torch in float64: stock transformers, each answer alone, two copies of the model."""

import contextlib
import copy
import itertools

import pytest
import torch
from peft import LoraConfig, get_peft_model

from xtuner.dataset.collate_fns.preference_collate_fn import preference_collate_fn
from xtuner.errors import ConfigError
from xtuner.model.dpo import DPO
from xtuner.model.loss import head_logprobs

BETA = 0.3

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def items():
    """Two packs of pairs: (7, 5) and (4, 6), then (9, 8); the first tokens are the prompt."""
    generator = torch.Generator().manual_seed(3)
    packs = []
    for lengths in ((7, 5, 4, 6), (9, 8)):
        ids = torch.randint(3, 128, (sum(lengths),), generator=generator).numpy()
        labels, boundaries = ids.copy(), [0]
        for length in lengths:
            labels[boundaries[-1] : boundaries[-1] + 2] = -100
            boundaries.append(boundaries[-1] + length)
        packs.append({"input_ids": ids, "labels": labels, "cumulative_len": boundaries})
    return packs


def adapted(llama):
    """The model with an adapter that changes its answers, as peft makes it."""
    torch.manual_seed(1)
    model = get_peft_model(llama, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.double()


@contextlib.contextmanager
def exact_norms():
    """Set Llama's norms to the precision of their input; transformers computes them in fp32."""

    def forward(norm, x):
        return torch.nn.functional.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.models.llama.modeling_llama.LlamaRMSNorm.forward", forward)
        yield


def plain_logprob(model, ids, labels):
    logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].log_softmax(-1)
    supervised = labels[1:] != -100
    return logits[supervised].gather(1, labels[1:][supervised, None]).sum()


def plain_dpo(policy, base, items, smoothing):
    """Sum of losses and of the four metrics over all pairs."""
    losses, sums = [], torch.zeros(4, dtype=torch.float64)
    for item in items:
        ids, labels = (torch.from_numpy(item[name]) for name in ("input_ids", "labels"))
        spans = [slice(a, b) for a, b in itertools.pairwise(item["cumulative_len"])]
        for c, r in zip(spans[::2], spans[1::2], strict=True):
            with torch.no_grad():
                base_c, base_r = (plain_logprob(base, ids[s], labels[s]) for s in (c, r))
            reward_c = BETA * (plain_logprob(policy, ids[c], labels[c]) - base_c)
            reward_r = BETA * (plain_logprob(policy, ids[r], labels[r]) - base_r)
            right, wrong = torch.sigmoid(reward_c - reward_r), torch.sigmoid(reward_r - reward_c)
            losses.append(-(1 - smoothing) * right.log() - smoothing * wrong.log())
            is_right = (reward_c > reward_r).double()
            sums += torch.stack([reward_c, reward_r, is_right, reward_c - reward_r]).detach()
    return torch.stack(losses).sum(), sums


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
    with exact_norms():
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


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_an_untrained_adapter_has_no_preference(llama, items, dtype, monkeypatch):
    """All rewards are 0, to the last bit, and the loss is log 2."""
    monkeypatch.setattr("xtuner.model.loading.cpu_computes_in_bf16", lambda: True)
    model = DPO(llama.to(dtype), lora=LoraConfig(r=4, lora_dropout=0.0)).train()
    outputs = model(preference_collate_fn(items)["data"])
    assert outputs["loss"].item() == pytest.approx(torch.log(torch.tensor(2.0)).item(), rel=1e-6)
    assert {name: value.item() for name, value in outputs["sums"].items()} == dict.fromkeys(
        model.metrics, 0.0
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
    with model._reference.active():
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
    """Bloom: each answer is run by itself, and its log-probabilities are summed for its sample."""
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    bloom = BloomForCausalLM(BloomConfig(vocab_size=128, hidden_size=32, n_layer=2, n_head=4)).double()
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
        ({}, "model.lora is not set"),
        ({"lora": LoraConfig(), "loss_type": "ipo"}, "model.loss_type is 'ipo', but DPO has only 'sigmoid'"),
        ({"lora": LoraConfig(), "label_smoothing": 0.5}, "model.label_smoothing is 0.5"),
        ({"lora": LoraConfig(), "ref_llm": {}}, "leave ref_llm out"),
    ],
)
def test_invalid_settings_are_named_before_a_model_is_loaded(wrong, message):
    with pytest.raises(ConfigError, match=message):
        DPO({"type": "not looked at"}, **wrong)
