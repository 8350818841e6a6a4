"""Adapters in a mixed batch against each model by itself."""

import contextlib

import pytest
import torch
from peft import LoraConfig

from tests.model.fused.test_layers import FAMILIES, tiny
from xtuner.model import SupervisedFinetune, kernels
from xtuner.model.fused import mixed as layers
from xtuner.model.mixed import MixedFinetune, Share, why_apart
from xtuner.model.shared import share

DENSE = [family for family in FAMILIES if "moe" not in family]


def adapter(base, seed, **settings):
    """A model over `base` with an adapter that does something."""
    torch.manual_seed(seed)
    lora = LoraConfig(**{"lora_alpha": 8, "target_modules": "all-linear", **settings})
    model = SupervisedFinetune(share(base), lora=lora, use_activation_checkpointing=False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape) * 0.1
    return model.to(base.dtype).train()


def gradients(model):
    return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("family", "dropout", "recompute", "by_kernels"),
    [
        *((family, 0.3, "none", False) for family in DENSE),
        ("llama", 0.3, "full", False),
        ("llama", 0.0, "none", False),
        ("llama", 0.3, "none", True),
    ],
)
def test_losses_and_gradients_are_those_of_each_model_alone(
    sizes, batch, relative_error, family, dropout, recompute, by_kernels
):
    """Other ranks, targets, batches and random numbers; by kernels in fp32, else in float64."""
    if by_kernels:
        pytest.importorskip("triton")
    dtype, limit = (torch.float32, 1e-5) if by_kernels else (torch.float64, 1e-10)
    base = tiny(family, sizes, dtype).requires_grad_(False)
    names = ["wo", "w2"] if family == "internlm2" else ["v_proj", "down_proj"]
    models = {
        "a": adapter(base, 1, r=4, lora_dropout=dropout),
        "b": adapter(base, 2, r=8, lora_dropout=dropout / 2, lora_alpha=3),
        "c": adapter(base, 3, r=2, lora_dropout=dropout, target_modules=names),
    }
    rows = {"a": [0, 1], "b": [1], "c": [0]}
    batches = {
        n: {k: [v[i] for i in rows[n]] if k == "cumulative_len" else v[rows[n]] if k != "max_seqlen" else v
            for k, v in batch.items()}
        for n in models
    }  # fmt: skip
    with kernels.assume_gpu() if by_kernels else contextlib.nullcontext():
        alone = {}
        for number, (name, model) in enumerate(models.items()):
            torch.manual_seed(number)
            loss = model(batches[name], num_items=10 + number)["loss"]
            loss.backward()
            alone[name] = loss.detach(), {n: g.clone() for n, g in gradients(model).items()}
            model.zero_grad(set_to_none=True)
        mix = MixedFinetune(base, recompute)
        shares = []
        for number, (name, model) in enumerate(models.items()):
            assert why_apart(model) == ""
            mix.add(name, model)
            random = torch.Generator().manual_seed(number)
            shares.append(Share(name, batches[name], 10 + number, random))
        losses = mix.losses(shares)
        torch.stack(losses).sum().backward()
        mix.done()
    for (name, model), loss in zip(models.items(), losses, strict=True):
        wanted_loss, wanted = alone[name]
        assert abs(loss - wanted_loss) < limit * wanted_loss
        found = gradients(model)
        assert found.keys() == wanted.keys()
        assert max(relative_error(found[n], wanted[n]) for n in wanted) < limit


def test_weights_of_the_base_are_in_memory_once(sizes):
    """Also those of buffers; modules and the config are each model's own."""
    base = tiny("llama", sizes)
    other = share(base)
    tensors = [*base.named_parameters(), *base.named_buffers()]
    assert all(dict([*other.named_parameters(), *other.named_buffers()])[n] is t for n, t in tensors)
    assert not {id(m) for m in base.modules()} & {id(m) for m in other.modules()}
    assert other.config is not base.config


def test_a_layer_of_the_base_multiplies_once_for_all(sizes, batch, monkeypatch):
    """Forward: one product of each frozen layer, however many adapters."""
    base = tiny("llama", sizes).requires_grad_(False)
    counted = []
    plain = layers.base_forward
    monkeypatch.setattr(layers, "base_forward", lambda *args: counted.append(args[0]) or plain(*args))
    mix = MixedFinetune(base, "none")
    models = {str(seed): adapter(base, seed, r=4) for seed in range(4)}
    for name, model in models.items():
        mix.add(name, model)
    mix.losses([Share(name, batch, 1, torch.Generator()) for name in models])
    assert len(counted) == len(set(map(id, counted))) == 2 * 7


APART = {
    "its adapter is more than plain LoRA on linear layers": {"use_dora": True},
    "it trains weights besides LoRA's linear layers": {"modules_to_save": ["lm_head"]},
}


@pytest.mark.parametrize(("reason", "settings"), APART.items())
def test_what_is_not_mixed(sizes, reason, settings):
    assert why_apart(adapter(tiny("llama", sizes), 0, r=4, **settings)) == reason


def test_a_model_with_dropout_of_its_own_is_not_mixed(sizes):
    """Its masks would be drawn for all rows at once."""
    base = tiny("llama", sizes)
    base.config.attention_dropout = 0.1
    assert why_apart(adapter(base, 0, r=4)) == "the model has dropout outside of the adapter"
    assert why_apart(adapter(tiny("qwen3_moe", sizes), 0, r=4)).startswith("its adapter is more than")
