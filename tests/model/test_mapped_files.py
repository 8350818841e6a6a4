"""The files that a loaded model keeps mapped."""

import gc
import shutil
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from xtuner.model.loading import load_for_chat, load_llm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is mapped, as Linux tells it")


def mapped(folder):
    """Names of the files of `folder` that this process has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {Path(line.split()[-1]).name for line in lines if str(folder) in line}


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_model_keeps_no_file_mapped(llama_dir, tmp_path, bits):
    """Embedding and norms, which are not quantised, would keep the whole file mapped."""
    model_dir = shutil.copytree(llama_dir, tmp_path / "model")  # other tests may still hold the shared one
    quantization = BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    folder = {"pretrained_model_name_or_path": str(model_dir), "quantization_config": quantization}
    llm = load_llm({"type": AutoModelForCausalLM.from_pretrained, **folder})
    assert mapped(model_dir) == set()
    plain = AutoModelForCausalLM.from_pretrained(model_dir, dtype=llm.dtype)
    assert torch.equal(llm.get_input_embeddings().weight, plain.get_input_embeddings().weight)
    del plain
    gc.collect()
    chat, _ = load_for_chat(model_dir, bits=bits)
    assert chat.get_input_embeddings().weight.shape == llm.get_input_embeddings().weight.shape
    assert mapped(model_dir) == set()
