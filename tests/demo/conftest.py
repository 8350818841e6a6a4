"""The smallest base model and image encoder that go through everything."""

from __future__ import annotations

import pytest

from xtuner.demo.base_model import Pretraining
from xtuner.demo.image_encoder import EncoderPlan


@pytest.fixture
def tiny() -> Pretraining:
    """A plan of three steps and one layer."""
    return Pretraining(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        steps=3,
    )


@pytest.fixture
def tiny_encoder() -> EncoderPlan:
    """A plan of two steps and two layers."""
    return EncoderPlan(
        image_size=16,
        patch_size=8,
        hidden_size=16,
        intermediate_size=32,
        num_layers=2,
        num_heads=2,
        num_pictures=8,
        steps=2,
        batch_size=4,
    )
