"""The families that may pack samples: known, or tested."""

import logging

import pytest

from tests.families.configs import make
from xtuner import log
from xtuner.model import isolation
from xtuner.model.isolation import Isolation


def test_a_family_that_isolates_samples_is_unchanged():
    """The test restores mode and attention, and is not repeated."""
    model, known = make("arcee").train(), Isolation()
    assert known.holds(model, 24)
    assert model.training
    assert model.config._attn_implementation == "xtuner"
    model.forward = None
    assert known.holds(model, 30)


@pytest.mark.parametrize(("family", "own"), [("nemotron", "sdpa"), ("doge", "sdpa"), ("hy_v4", "eager")])
def test_a_family_that_mixes_them_gets_its_own_attention_back(family, own, caplog):
    """Its layers drop the arguments of a pack, make their own masks, or choose keys; this is logged."""
    caplog.set_level(logging.INFO)
    model = make(family)
    assert not Isolation().holds(model, 24)
    assert model.config._attn_implementation == own
    assert "Testing the isolation of packed samples failed" in caplog.text


def test_a_test_is_as_long_as_the_sequences():
    """A sum over every twelve tokens mixes samples only in sequences of so many tokens."""
    rates = {"compressed_sparse_attention": 4, "heavily_compressed_attention": 12}
    model = make("deepseek_v4", compress_rates=rates, layer_types=["heavily_compressed_attention"] * 2)
    # The other kind of layer is not there, nor is any window below 64.
    model.config.compress_rates = {"heavily_compressed_attention": 12}
    model.config.sliding_window, model.config.index_topk = 64, 64
    known = Isolation()
    assert known.holds(model, 12)
    assert not known.holds(model, 13)


def test_limits_that_are_too_large_are_not_tested(caplog, monkeypatch):
    """A limit of 9,000 tokens: longer sequences are packed as shorter ones are, with a warning."""
    monkeypatch.setattr(log, "_said", set())
    model, known = make("arcee"), Isolation()
    model.config.some_window = 9000
    assert known.holds(model, 9000)
    assert "9000" not in caplog.text
    assert known.holds(model, 9001)
    assert "were tested for isolation up to 8192 tokens; beyond, 9000 in their config" in caplog.text


def test_limits_are_read_from_the_config():
    """Windows, chunks and numbers of chosen keys, at any position in it."""
    config = make("deepseek_v32").config
    config.nested = {"attention_chunk_size": 77, "use_window": True, "unlike": 5}
    assert set(isolation.limits(config)) >= {4, 77}
    assert 5 not in isolation.limits(config)


def test_one_token_with_another_expert_is_not_a_leak():
    """Rounding may change the expert of a token; samples that are mixed differ in all tokens."""
    model = make("arcee")

    def disturb(number):
        def hook(_model, _args, kwargs, output):
            if "cu_seq_lens_q" in kwargs:
                output.logits[0, -number:] += 1

        return model.register_forward_hook(hook, with_kwargs=True)

    handle = disturb(1)
    assert not isolation._differs(model, isolation.BEYOND)
    handle.remove()
    disturb(isolation.BEYOND)
    assert isolation._differs(model, isolation.BEYOND)
