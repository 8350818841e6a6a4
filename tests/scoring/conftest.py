"""Tiny reward models and classifiers, saved as `pth_to_hf` saves them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.end_to_end.test_dpo import TEMPLATE

END = "<|im_end|>"


@pytest.fixture(scope="session")
def scoring_dir(tmp_path_factory, saved) -> Callable[..., Path]:
    """Function of a family, and of fields of its config: the folder of a random model that scores texts."""
    bases: dict[str, Path] = {}

    def save(family: str = "llama", chat_template: str | None = TEMPLATE, **fields: Any) -> Path:
        from transformers import AutoConfig, AutoModelForSequenceClassification

        from xtuner.model.loading import register_families

        register_families()
        base = bases.setdefault(family, saved(family))
        folder = tmp_path_factory.mktemp(f"{family}_scores")
        for file in base.glob("*token*"):
            shutil.copy(file, folder)
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings = {**settings, **({"chat_template": chat_template} if chat_template else {})}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        config = AutoConfig.from_pretrained(base)
        for name, value in {"pad_token_id": 3, "num_labels": 1, **fields}.items():
            setattr(config, name, value)
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def reward_dir(scoring_dir, tokenizer) -> Path:
    """A Llama with a head of one number; its samples end with the reward token `<|im_end|>`."""
    return scoring_dir(reward_token_id=tokenizer.convert_tokens_to_ids(END))
