"""Packs of families whose code does not ask transformers for its attention: Bloom, Falcon, MPT."""

import copy
import itertools

import pytest
import torch
from peft import LoraConfig

from tests.families.configs import make
from xtuner.model import SupervisedFinetune, own_attention
from xtuner.model.attention import packed_batch
from xtuner.model.isolation import Isolation, isolates
from xtuner.model.lora import apply_lora
from xtuner.model.packed import packed_inputs

# Samples are longer than the 256 positions that 16 bits tell apart.
BOUNDARIES = [0, 300, 307, 360, 361, 372]
MPT = {"max_seq_len": 512}
KINDS = {
    "bloom": ("bloom", {}),
    "bloom, five heads": ("bloom", {"n_head": 5, "hidden_size": 80}),
    "bloom, residual after the norm": ("bloom", {"apply_residual_connection_post_layernorm": True}),
    "falcon with rope": ("falcon", {}),
    "falcon with rope, new layers": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon": ("falcon", {"alibi": True, "multi_query": False, "num_kv_heads": 4}),
    "falcon, six heads": (
        "falcon",
        {"alibi": True, "multi_query": False, "num_attention_heads": 6, "hidden_size": 96, "num_kv_heads": 6},
    ),
    "falcon, one key head": ("falcon", {"alibi": True}),
    "falcon, one after the other": (
        "falcon",
        {"alibi": True, "multi_query": False, "num_kv_heads": 4, "parallel_attn": False, "bias": True},
    ),
    "mpt": ("mpt", MPT),
    "mpt, three heads": ("mpt", {**MPT, "n_heads": 3, "d_model": 48}),
    "mpt, clipped and scaled": (
        "mpt",
        {**MPT, "attn_config": {"clip_qkv": 0.5, "softmax_scale": 0.3, "alibi_bias_max": 16}},
    ),
}


def of_kind(kind):
    family, changes = KINDS[kind]
    return make(family, None, **changes)


def ids(length=BOUNDARIES[-1]):
    return torch.randint(3, 64, (1, length), generator=torch.Generator().manual_seed(2))


def alone(model, row, boundaries=BOUNDARIES):
    """Logits of each sample by stock code."""
    parts = [model(row[:, a:b], use_cache=False).logits[0] for a, b in itertools.pairwise(boundaries)]
    return torch.cat(parts)


def packed(model, row, boundaries=BOUNDARIES):
    with packed_batch(boundaries):
        return model(**packed_inputs(row, boundaries)).logits[0]


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def batch(row):
    return {"input_ids": row, "labels": row, "cumulative_len": [torch.tensor(BOUNDARIES)]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_pack_gives_what_its_samples_alone_give(kind, relative_error):
    """Logits and all gradients in fp32, against stock code."""
    model, row = of_kind(kind), ids()
    ours = copy.deepcopy(model)
    assert own_attention.stand_in(ours)
    assert isolates(ours)
    wanted, found = alone(model, row), packed(ours, row)
    assert relative_error(found, wanted) < 1e-5
    wanted.square().sum().backward()
    found.square().sum().backward()
    stock = gradients(model)
    assert gradients(ours).keys() == stock.keys()
    for name, gradient in gradients(ours).items():
        assert relative_error(gradient, stock[name]) < 1e-4, name


@pytest.mark.parametrize("kind", ["bloom", "falcon", "mpt"])
def test_it_is_exact(kind, relative_error):
    """In float64, up to a softmax that stock code computes in fp32."""
    model, row = of_kind(kind).double(), ids()
    ours = copy.deepcopy(model)
    own_attention.stand_in(ours)
    exact = 1e-12 if kind == "falcon" else 1e-6
    with torch.no_grad():
        assert relative_error(packed(ours, row), alone(model, row)) < exact


@pytest.mark.parametrize("kind", ["bloom", "falcon with rope", "falcon", "mpt"])
def test_generation_is_that_of_stock_code(kind):
    """With its cache, and with padding."""
    model, row = of_kind(kind), ids(20).view(2, 10)
    ours = copy.deepcopy(model)
    own_attention.stand_in(ours)
    mask = torch.ones_like(row)
    mask[0, :4] = 0
    wanted = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(ours.generate(row, **wanted), model.generate(row, **wanted))


@pytest.mark.parametrize("way", ["none", "selective", "full", "offload"])
@pytest.mark.parametrize("kind", ["bloom", "falcon with rope", "falcon", "mpt"])
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_training_with_recomputation(kind, way, adapter, relative_error):
    """The loss and gradients of a batch, of all weights or of an adapter, are those of its samples alone."""
    model = of_kind(kind)
    if adapter:
        lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        model = apply_lora(model, lora)
    ours = SupervisedFinetune(copy.deepcopy(model), use_activation_checkpointing=way).train()
    assert isolates(ours.llm)
    row = ids()
    losses = [
        torch.nn.functional.cross_entropy(
            model(row[:, a:b], use_cache=False).logits[0, :-1], row[0, a + 1 : b], reduction="sum"
        )
        for a, b in itertools.pairwise(BOUNDARIES)
    ]
    wanted = sum(losses) / (BOUNDARIES[-1] - len(losses))
    wanted.backward()
    loss = ours(batch(row))["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    stock, found = gradients(model), gradients(ours.llm)
    assert found.keys() == stock.keys()
    whole = [torch.cat([g[name].flatten() for name in stock]) for g in (found, stock)]
    assert relative_error(*whole) < 1e-4


def test_a_sample_may_be_longer_than_the_context_of_mpt(relative_error):
    """Its own code has no ALiBi beyond; ours goes on with it."""
    model = make("mpt", None, max_seq_len=512)
    ours = make("mpt", None, max_seq_len=16)
    own_attention.stand_in(ours)
    with torch.no_grad():
        assert relative_error(packed(ours, ids()), alone(model, ids())) < 1e-5


@pytest.mark.parametrize("kind", ["bloom", "falcon", "mpt"])
def test_dropout_is_applied_in_training_only(kind):
    """Attention alone has dropout here: two passes in training differ, and the samples stay apart."""
    model = of_kind(kind)
    own_attention.stand_in(model)
    for module in model.modules():
        if type(module).__name__.endswith("Attention"):
            if kind == "mpt":
                module.attn_dropout_p = 0.5
            else:
                module.attention_dropout.p = 0.5
    row, other = ids(), ids()
    other[:, :300] = 5
    with torch.no_grad():
        assert torch.equal(packed(model, row), packed(model, row))
        model.train()
        assert not torch.equal(packed(model, row), packed(model, row))
        found = []
        for one in (row, other):
            torch.manual_seed(3)
            found.append(packed(model, one)[300:])
    torch.testing.assert_close(*found)


def test_code_that_was_not_proven_runs_each_sample_by_itself(monkeypatch, caplog):
    """All layers of a model stand in or none; the cost is logged."""
    from transformers.models.bloom import modeling_bloom

    def forward(self, *args, **kwargs):
        return own(self, *args, **kwargs)

    own = modeling_bloom.BloomBlock.forward
    monkeypatch.setattr(modeling_bloom.BloomBlock, "forward", forward)
    model = of_kind("bloom")
    assert not own_attention.stand_in(model)
    assert not Isolation().holds(model, 24)
    assert not any("forward" in vars(module) for module in model.modules())
    assert "was proven against: each sample runs by itself: slower with many short samples" in caplog.text


def test_slices_of_a_projection_are_left_to_bloom():
    """With them Bloom leaves a bias out, on which a pack would differ."""
    assert not own_attention.stand_in(make("bloom", None, slow_but_exact=True, pretraining_tp=2))
