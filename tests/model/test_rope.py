"""Rotary positions that depend on the length of a sample equal those of each sample alone."""

import itertools

import pytest
import torch

from tests.families.configs import make
from xtuner.model.attention import packed_batch
from xtuner.model.fused import unfuse
from xtuner.model.packed import packed_inputs
from xtuner.model.rope import scale_by_sample

DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.5, 1.0, 2.0] * 2,
    "long_factor": [2.0, 3.0, 4.0, 9.0] * 2,
    "original_max_position_embeddings": 16,
}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
SHORT = {"max_position_embeddings": 16}
KIND = ["sliding_attention", "full_attention"]
KINDS = {"layer_types": KIND}
MODELS = [
    ("llama", {**SHORT, "rope_parameters": DYNAMIC}),
    ("internlm", {**SHORT, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
    ("internlm2", {**SHORT, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
    ("gemma3_text", {**SHORT, **KINDS, "rope_parameters": {KIND[0]: PLAIN, KIND[1]: DYNAMIC}}),
    ("gemma3_text", {**KINDS, "rope_parameters": {KIND[0]: LONG, KIND[1]: PLAIN}}),
    ("llama4_text", {**SHORT, "rope_parameters": DYNAMIC}),
    ("mistral", {"rope_parameters": LONG}),
    ("phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 16}),
    ("phimoe", {"rope_parameters": {**LONG, "short_mscale": 1.2, "long_mscale": 1.4}}),
]
# On both sides of the models' own length, and at it.
LENGTHS = [30, 10, 16, 21, 12]


def stock(family, changes, ids):
    """The logits of a new model for one sample."""
    with torch.no_grad():
        return make(family, "eager", **changes)(ids, use_cache=False).logits[0]


@pytest.mark.parametrize(("family", "changes"), MODELS, ids=[f"{f}-{i}" for i, (f, _) in enumerate(MODELS)])
def test_each_sample_is_scaled_by_its_own_length(family, changes, relative_error):
    """In one pack, alone after longer ones, and in any order: the stock logits of each sample alone."""
    row = torch.randint(3, 64, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(1))
    samples = row.split(LENGTHS, dim=1)
    wanted = [stock(family, changes, ids) for ids in samples]
    model = make(family, **changes)
    assert scale_by_sample(model) == 1
    unfuse(model)  # is about other modules
    for order in (range(5), [3, 0, 4, 2, 1], [1, 2, 4, 3, 0]):
        boundaries = [0, *itertools.accumulate(LENGTHS[i] for i in order)]
        with torch.no_grad(), packed_batch(boundaries):
            packed = model(**packed_inputs(torch.cat([samples[i] for i in order], 1), boundaries)).logits[0]
        assert relative_error(packed, torch.cat([wanted[i] for i in order])) < 3e-6
        for i in order:
            with torch.no_grad():
                alone = model(samples[i], use_cache=False).logits[0]
            assert relative_error(alone, wanted[i]) < 3e-6


@pytest.mark.parametrize("lengths", [[10, 12], LENGTHS], ids=["short", "long"])
def test_a_dynamic_scale_is_known_from_the_host(lengths):
    """Positions on `meta` have no value that could be read."""
    model = make("llama", **SHORT, rope_parameters=DYNAMIC)
    scale_by_sample(model)
    rotary = model.model.rotary_emb.to("meta")
    total, boundaries = sum(lengths), [0, *itertools.accumulate(lengths)]
    x, positions = torch.empty(1, total, 32, device="meta"), torch.empty(1, total, device="meta").long()
    with packed_batch(boundaries):
        cos, _ = rotary(x, positions)
    assert cos.shape[:2] == (1, total)


def test_a_part_of_a_pack_is_scaled_by_whole_samples():
    """A sequence-parallel rank has parts of samples, and gets the lengths of the whole samples."""
    model = make("llama", **SHORT, rope_parameters=DYNAMIC)
    scale_by_sample(model)
    x, ids = torch.zeros(1), torch.zeros(1, 42, dtype=torch.long)
    positions = packed_inputs(ids, [0, 30, 42])["position_ids"]
    with packed_batch([0, 30, 42]):
        whole = model.model.rotary_emb(x, positions)
    parts = []
    for part, pieces in ((positions[:, :21], [(21, 30)]), (positions[:, 21:], [(9, 30), (12, 12)])):
        with packed_batch([0, 30, 42], pieces):
            parts.append(model.model.rotary_emb(x, part))
    for angles, *halves in zip(whole, *parts, strict=True):
        torch.testing.assert_close(torch.cat(halves, dim=1), angles)


def test_padding_is_not_a_pack():
    """Rows of a padded batch have the scale of the longest, as in stock code; zeros begin no sample there."""
    model, twin = (make("llama", **SHORT, rope_parameters=DYNAMIC) for _ in range(2))
    scale_by_sample(model)
    positions = torch.tensor([[0] * 5 + list(range(15)), list(range(20))])
    ours, theirs = (m.model.rotary_emb(torch.zeros(1), positions) for m in (model, twin))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_other_ropes_are_unchanged():
    """A scale that is the same for all lengths needs no change."""
    yarn = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 32}
    assert [scale_by_sample(make("llama", rope_parameters=rope)) for rope in (PLAIN, yarn)] == [0, 0]
