"""Adapters made with peft on the tiny Llama, and the config text their run would have had."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

CONFIG = """
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from xtuner.model import SupervisedFinetune

pretrained_model_name_or_path = {base!r}
model = dict(
    type=SupervisedFinetune,
    llm=dict(
        type=AutoModelForCausalLM.from_pretrained,
        pretrained_model_name_or_path=pretrained_model_name_or_path,
        torch_dtype=torch.{dtype}),
    lora={lora})
"""


@pytest.fixture
def write_config(tmp_path):
    """A config file of a run: base path, dtype and the text of its `lora` value."""

    def write(base="../base", dtype="float16", lora="None") -> Path:
        path = tmp_path / "run_copy.py"
        path.write_text(CONFIG.format(base=str(base), dtype=dtype, lora=lora))
        return path

    return write


@pytest.fixture
def make_adapter(tmp_path):
    """A peft model over a base folder with every trained tensor random, saved; returns (model, folder)."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    def make(base: Path, name="adapter", dtype=torch.float32, **lora):
        torch.manual_seed(1)
        settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], **lora}
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft's notes on tied weights and on lora_bias
            model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data.add_(torch.randn_like(parameter) * 0.1)
            folder = tmp_path / name
            model.save_pretrained(str(folder))
        return model, folder

    return make


@pytest.fixture
def run_state():
    """The state dict a checkpoint of this project holds for a peft model: trained tensors under `llm.`."""

    def state(model) -> dict[str, torch.Tensor]:
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        return {f"llm.{n}": t for n, t in model.state_dict().items() if n in trained}

    return state


@pytest.fixture
def save_checkpoint(tmp_path):
    """A checkpoint file of the form that the engine writes."""

    def save(state_dict, hf_files=None, name="iter_3.pth") -> Path:
        meta = {"iter": 3, "epoch": 0, "cfg": "", "config_name": "run_copy.py", "hf_files": hf_files or {}}
        path = tmp_path / name
        torch.save({"meta": meta, "state_dict": state_dict}, path)
        return path

    return save
