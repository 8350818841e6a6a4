"""The two tokenizers that the reference ids were made with, and a place of its own for each test's tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture(scope="session")
def tokenizers():
    """By name: `bos` opens every conversation with `<s>`, `qwen` with nothing."""
    return {name: AutoTokenizer.from_pretrained(DATA / f"tokenizer_{name}") for name in ("bos", "qwen")}


@pytest.fixture(scope="session")
def bos(tokenizers):
    return tokenizers["bos"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XTUNER_CACHE", str(folder))
    return folder
