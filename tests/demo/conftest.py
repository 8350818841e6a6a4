"""The smallest base model that goes through everything."""

from __future__ import annotations

import pytest

from xtuner.demo.base_model import Pretraining


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
