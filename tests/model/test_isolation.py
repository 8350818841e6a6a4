"""Which families may have several samples in one row: known, or tried."""

import logging

import pytest

from tests.families.configs import make
from xtuner import log
from xtuner.model import isolation
from xtuner.model.isolation import Isolation


def test_a_family_that_keeps_samples_apart_is_left_as_it_was():
    """The trial restores mode and attention, and is not repeated."""
    model, known = make("arcee").train(), Isolation()
    assert known.holds(model, 24)
    assert model.training
    assert model.config._attn_implementation == "xtuner"
    model.forward = None
    assert known.holds(model, 30)


@pytest.mark.parametrize(("family", "own"), [("nemotron", "sdpa"), ("doge", "sdpa"), ("hy_v4", "eager")])
def test_a_family_that_mixes_them_gets_its_own_attention_back(family, own, caplog):
    """Its layers drop what a pack needs, make masks of their own, or choose keys; the log says so."""
    caplog.set_level(logging.INFO)
    model = make(family)
    assert not Isolation().holds(model, 24)
    assert model.config._attn_implementation == own
    assert "Testing the isolation of packed samples failed" in caplog.text


def test_a_trial_reaches_as_far_as_rows_do():
    """What sums up every twelve tokens of the row mixes samples only where a row has so many."""
    rates = {"compressed_sparse_attention": 4, "heavily_compressed_attention": 12}
    model = make("deepseek_v4", compress_rates=rates, layer_types=["heavily_compressed_attention"] * 2)
    # The other kind of layer is not there, nor is any window below 64.
    model.config.compress_rates = {"heavily_compressed_attention": 12}
    model.config.sliding_window, model.config.index_topk = 64, 64
    known = Isolation()
    assert known.holds(model, 12)
    assert not known.holds(model, 13)


def test_what_lies_too_far_is_not_tried_and_said(caplog, monkeypatch):
    """A limit of 9,000 tokens: rows beyond it are packed as shorter ones are, with a warning."""
    monkeypatch.setattr(log, "_said", set())
    model, known = make("arcee"), Isolation()
    model.config.some_window = 9000
    assert known.holds(model, 9000)
    assert "9000" not in caplog.text
    assert known.holds(model, 9001)
    assert "were tested for isolation up to 8192 tokens; beyond, 9000 in their config" in caplog.text


def test_limits_are_read_from_the_config():
    """Windows, chunks and numbers of chosen keys, wherever they stand in it."""
    config = make("deepseek_v32").config
    config.nested = {"attention_chunk_size": 77, "use_window": True, "unlike": 5}
    assert set(isolation.limits(config)) >= {4, 77}
    assert 5 not in isolation.limits(config)


def test_one_token_of_another_expert_is_no_leak():
    """Rounding may send a token elsewhere; samples that see each other differ in all of their tokens."""
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
