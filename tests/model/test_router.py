"""The balance loss of experts is added to the loss as in transformers, if configured."""

import copy
import inspect
import sys

import pytest
import torch

from tests.families.configs import OF_TEXT, fields_of, make
from tests.model.test_passes import gradient, rows, samples, stock_loss
from xtuner.model import SupervisedFinetune
from xtuner.model.router import balance_weight

ASKED = {"output_router_logits": True, "router_aux_loss_coef": 0.3}


def asks(family):
    fields = fields_of(family)
    return "output_router_logits" in fields and fields & {"router_aux_loss_coef", "aux_loss_coef"}


def one_sample():
    """Ten tokens, which are padded with 22 more in ours."""
    data = rows()
    return {
        "input_ids": data["input_ids"][:1, :10],
        "labels": data["labels"][:1, :10],
        "cumulative_len": [torch.tensor([0, 10])],
    }


def prepared(family, implementation=None, **changes):
    model = make(family, implementation, **{**ASKED, "aux_loss_coef": 0.3, **changes})
    return model, copy.deepcopy(model)


def train(model, data, **settings):
    ours = SupervisedFinetune(model, use_activation_checkpointing=False, **settings)
    model.eval()
    return ours, ours(data)["loss"]


@pytest.mark.parametrize("family", [family for family in OF_TEXT if asks(family)])
def test_the_loss_of_one_sample_is_that_of_transformers(family, relative_error):
    """Loss and gradients of the family's own forward with labels; padding is not counted."""
    model, reference = prepared(family)
    data = one_sample()
    wanted = reference(data["input_ids"], labels=data["labels"], use_cache=False).loss
    wanted.backward()
    _, loss = train(model, data)
    loss.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert relative_error(gradient(model), gradient(reference)) < 2e-5


def balance(model, data):
    """The family's own function on the router logits of samples that were run alone."""
    logits = [model(ids, use_cache=False).router_logits for ids, _ in samples(data)]
    function = sys.modules[type(model).__module__].load_balancing_loss_func
    assert list(inspect.signature(function).parameters)[:3] == ["gate_logits", "num_experts", "top_k"]
    return function(tuple(map(torch.cat, zip(*logits, strict=True))), 4, 2)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_packed_samples_are_balanced_together(family):
    """All real tokens count once; padding of rows and of the pack does not count."""
    model, reference = prepared(family)
    data = rows()
    wanted = stock_loss(reference, data) + 0.3 * balance(reference, data)
    assert train(model, data)[1].item() == pytest.approx(wanted.item(), rel=1e-6)


def test_samples_that_run_separately_are_balanced_separately():
    """The mean of the passes, weighted by supervised tokens: 9 of ten tokens, 10 of twice seven."""
    model, reference = prepared("jamba")
    data = rows()
    first = dict(zip(("ids", "labels"), next(samples(data)), strict=True))
    rest = [ids for ids, _ in samples(data)][1:]
    balances = [reference(ids, use_cache=False).aux_loss for ids in (first["ids"], torch.cat(rest))]
    wanted = stock_loss(reference, data) + 0.3 * (9 * balances[0] + 10 * balances[1]) / 19
    assert train(model, data)[1].item() == pytest.approx(wanted.item(), rel=1e-6)


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_adapters_and_recomputation_change_nothing(recompute, relative_error):
    """The gradient of routers passes through recomputed layers."""
    from peft import LoraConfig

    model, reference = prepared("mixtral")
    data = one_sample()
    lora = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", modules_to_save=["gate"])
    wanted = reference(data["input_ids"], labels=data["labels"], use_cache=False).loss
    wanted.backward()
    ours = SupervisedFinetune(model, lora=lora, use_activation_checkpointing=recompute).train()
    loss = ours(data)["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    found = {name: p.grad for name, p in ours.named_parameters() if "gate.modules_to_save" in name}
    gates = [layer.mlp.gate.weight.grad for layer in reference.model.layers]
    assert all(relative_error(a, b) < 1e-5 for a, b in zip(found.values(), gates, strict=True))


def test_an_update_has_the_mean_of_its_batches():
    """Weighted by supervised tokens."""
    model, _ = prepared("mixtral")
    ours = SupervisedFinetune(model, use_activation_checkpointing=False).train()
    batches = [one_sample(), one_sample()]
    batches[1]["labels"] = batches[1]["labels"].index_fill(1, torch.arange(5), -100)
    alone = [ours(batch)["loss"] for batch in batches]
    counts = [ours.num_items(batch) for batch in batches]
    assert counts == [9, 5]
    together = sum(ours(batch, num_items=14)["loss"] for batch in batches)
    torch.testing.assert_close(together, (9 * alone[0] + 5 * alone[1]) / 14)


def test_validation_has_no_balance_loss():
    """In eval mode the loss is the cross entropy, whose exponential is the perplexity."""
    model, reference = prepared("mixtral")
    ours = SupervisedFinetune(model, use_activation_checkpointing=False).eval()
    assert ours(rows())["loss"].item() == pytest.approx(stock_loss(reference, rows()).item(), rel=1e-6)


def test_a_coefficient_alone_has_no_effect():
    """Released configs have one, but transformers' loss ignores it unless router logits are requested."""
    assert balance_weight(make("mixtral", None, router_aux_loss_coef=0.3)) == 0
    assert balance_weight(make("llama", None)) == 0
    assert balance_weight(prepared("mixtral")[0]) == 0.3
    assert balance_weight(prepared("jetmoe")[0]) == 0.3
