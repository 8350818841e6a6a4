"""A tiny model behind a scheduler, and adapters on it."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="xtuner[serve] is not installed")


@pytest.fixture
def llama(llama_dir):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(llama_dir).eval()
