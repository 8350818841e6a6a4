"""Code of other packages is replaced only if ours was proven against it."""

import copy
import importlib.metadata
import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import layer as peft_layer
from transformers.integrations import moe
from transformers.models.llama import modeling_llama as llama_code

from tests import moe as models
from tests.other_versions import resolve
from xtuner.model import foreign, quantization
from xtuner.model.fused import experts, fuse, unfuse
from xtuner.model.fused.linear import adapted
from xtuner.model.lora import apply_lora
from xtuner.model.rope import scale_by_sample

CODE = """
def helper(x):
    return {inner}


def forward(self, x{annotation}):
    {comment}
    y = helper(x)
    return y * {factor}
"""
ONE = {"inner": "x + 1", "annotation": "", "comment": "pass", "factor": "2"}


def fingerprint_of(folder, name, **changes):
    (folder / f"{name}.py").write_text(CODE.format(**{**ONE, **changes}))
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return foreign.fingerprint(module.forward)


def test_a_fingerprint_is_of_the_code_and_the_functions_it_calls(tmp_path):
    """Comments, docstrings, annotations and line breaks have no effect."""
    same = {
        "annotation": {"annotation": ": 'Tensor'"},
        "brackets": {"factor": "(\n        2  # twice\n    )"},
    }
    other = {
        "factor": {"factor": "3"},
        "helper": {"inner": "x + 2"},
        "default": {"annotation": "=1"},
        "statement": {"comment": "x = x"},
    }
    one = fingerprint_of(tmp_path, "one")
    assert len(one) == 12
    assert {fingerprint_of(tmp_path, f"same_{name}", **change) for name, change in same.items()} == {one}
    commented = fingerprint_of(tmp_path, "commented", comment='"""What it does."""')
    assert commented == fingerprint_of(tmp_path, "other", comment='"""Other words."""  # and more')
    found = {fingerprint_of(tmp_path, f"other_{name}", **change) for name, change in other.items()}
    assert len(found | {one, commented}) == 2 + len(other)
    assert foreign.fingerprint(len) == ""


def test_all_installed_versions_are_proven():
    """If this fails: inspect the change, then make prove PACKAGE=transformers==VERSION."""
    unknown = {}
    for path in foreign.guarded():
        package = path.split(".")[0]
        if foreign.fingerprint(resolve(path)) not in foreign.proven().get(path, {}):
            unknown[path] = importlib.metadata.version(package)
    assert unknown == {}
    assert set(foreign.proven()) == set(foreign.guarded())


def doubled(self, x):
    return 2 * self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


def test_a_changed_layer_is_not_replaced_and_named_once(llama, monkeypatch, caplog):
    """The others run through the fused functions."""
    monkeypatch.setattr(llama_code.LlamaMLP, "forward", doubled)
    llama.train()
    wanted, ids = llama(torch.arange(9)[None]).logits, torch.arange(9)[None]
    assert fuse(llama) == 2 * 4 + 1  # each layer, its attention and two norms, and the last norm
    # The family's norms and rotary positions compute in fp32.
    torch.testing.assert_close(llama(ids).logits, wanted, rtol=1e-3, atol=1e-5)
    version = importlib.metadata.version("transformers")
    assert caplog.messages == [
        f"transformers.models.llama.modeling_llama.LlamaMLP of transformers {version} is not the code that "
        "XTuner's own was proven against: it trains as it is, to the same result, with more time and memory"
    ]


def test_a_function_that_a_layer_calls_counts_too(llama, monkeypatch):
    """With other pairs of rotary positions attention is not replaced."""

    def apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=1):
        return q, k

    monkeypatch.setattr(llama_code, "apply_rotary_pos_emb", apply_rotary_pos_emb)
    foreign.fingerprint.cache_clear()
    fuse(llama)
    assert "forward" not in vars(llama.model.layers[0].self_attn)
    assert "forward" in vars(llama.model.layers[0].mlp)
    foreign.fingerprint.cache_clear()


def test_a_forward_set_by_another_library_is_not_replaced(llama):
    """Hooks of accelerate are such forwards; unfuse does not change them either."""
    mlp = llama.model.layers[0].mlp
    mlp.forward = other = lambda x: x
    fuse(llama)
    assert mlp.forward is other
    assert "forward" in vars(llama.model.layers[1].mlp)
    unfuse(llama)
    assert mlp.forward is other
    assert "forward" not in vars(llama.model.layers[1].mlp)


def test_layers_in_another_module_are_not_replaced(llama, monkeypatch, caplog):
    """Ours was not proven against a class of the same name in another module."""
    monkeypatch.setattr(llama_code.LlamaMLP, "__module__", "transformers_modules.somebody")
    fuse(llama)
    assert "forward" not in vars(llama.model.layers[0].mlp)
    assert "No layer of this model is a transformers.models.llama.modeling_llama.LlamaMLP" in caplog.text


def lora_linear(self, x, *args, **kwargs):
    return self.base_layer(x)


def test_changed_adapters_run_by_pefts_code(llama, monkeypatch, caplog):
    """Layers that use several adapters at once check each."""
    model = apply_lora(llama, LoraConfig(target_modules=["q_proj", "up_proj"], init_lora_weights=False))
    fuse(model)
    layer = model.base_model.model.model.layers[0]
    assert adapted(layer.mlp.up_proj) is not None
    monkeypatch.setattr(peft_layer.Linear, "forward", lora_linear)
    assert adapted(layer.mlp.up_proj) is None
    x = torch.randn(3, 64, dtype=torch.float64)
    torch.testing.assert_close(layer.train().mlp(x), copy.deepcopy(layer).eval().mlp(x))
    assert caplog.text.count("peft.tuners.lora.layer.Linear") == 1


@pytest.mark.parametrize("what", ["get_delta_weight", "use_experts_implementation"])
def test_changed_experts_run_by_pefts_code(what, monkeypatch, caplog):
    """A change in the layout of peft's adapter, or in transformers' description of experts."""
    model = apply_lora(models.make("qwen3_moe"), LoraConfig(r=4))
    owner = moe if what == "use_experts_implementation" else peft_layer.ParamWrapper
    monkeypatch.setattr(owner, what, doubled)
    fuse(model)
    wrapped = [m for m in model.modules() if experts.is_on_parameter(m)]
    assert len(wrapped) > 1
    assert not any("forward" in vars(m) for m in wrapped)
    assert "to the same result, with several times the memory" in caplog.text


def test_changed_rotary_positions_are_named(monkeypatch, caplog):
    """Those that depend on the length of a sample; others are not checked."""
    from transformers import LlamaConfig, LlamaForCausalLM, modeling_rope_utils

    monkeypatch.setattr(modeling_rope_utils, "dynamic_rope_update", doubled)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 8}
    scale_by_sample(LlamaForCausalLM(LlamaConfig(**sizes)))
    assert not caplog.messages
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert scale_by_sample(LlamaForCausalLM(LlamaConfig(**sizes, rope_parameters=dynamic))) == 1
    assert "rotary positions that follow a sample's length may be wrong in packs" in caplog.text


def test_changed_4bit_layers_are_named(monkeypatch, caplog):
    """On a CPU the gradients after generation depend on one of their attributes."""
    bnb = pytest.importorskip("bitsandbytes.nn")
    model = torch.nn.Sequential(bnb.Linear4bit(8, 8))
    quantization.keep_4bit_weights_unpacked(model)
    assert not caplog.messages
    monkeypatch.setattr(bnb.Linear4bit, "forward", doubled)
    quantization.keep_4bit_weights_unpacked(model)
    assert "bitsandbytes.nn.modules.Linear4bit" in caplog.text
    assert "gradients on a CPU may be wrong" in caplog.text


@pytest.mark.slow
def test_a_version_that_cannot_be_installed_is_a_failure(tmp_path):
    """Without a package index, or with an invalid version, the command fails with a message."""
    command = [sys.executable, "-m", "tests.other_versions", "test", "transformers==0.0.0"]
    index = {"PIP_INDEX_URL": tmp_path.as_uri(), "PIP_EXTRA_INDEX_URL": "", "PIP_CONFIG_FILE": "/dev/null"}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **index})
    assert done.returncode == 1
    assert "pip cannot install 'transformers==0.0.0'" in done.stderr
