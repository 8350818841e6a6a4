"""A tiny model behind a scheduler, and adapters on it."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("fastapi", reason="xtuner[serve] is not installed")


@pytest.fixture(scope="session")
def adapter_dir(llama_dir, tmp_path_factory):
    """An adapter on the tiny Llama that changes its answers."""
    import warnings

    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    lora = LoraConfig(r=4, lora_alpha=64, init_lora_weights=False, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(llama_dir), lora)
        folder = tmp_path_factory.mktemp("adapters") / "poet"
        model.save_pretrained(str(folder))
    (folder / "xtuner_config.py").write_text("prompt_template = 'internlm2_chat'\n")
    return folder


@pytest.fixture
def llama(llama_dir):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(llama_dir).eval()
