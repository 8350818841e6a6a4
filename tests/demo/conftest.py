"""The smallest base model that goes through everything."""

from __future__ import annotations

import pytest

from xtuner.demo.base_model import Plan


@pytest.fixture
def tiny() -> Plan:
    """A plan of three steps and one layer."""
    return Plan(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        steps=3,
    )
