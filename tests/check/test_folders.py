"""Model folders that train refuses are refused by check and new-cfg first, with the same message."""

import json
import re
import shutil

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from tests import seeing
from xtuner import cli, loadable, log
from xtuner.check.checks import check_config
from xtuner.config import load_config
from xtuner.errors import XTunerError
from xtuner.loadable import auto_class
from xtuner.model import SupervisedFinetune

LM = "name the folder of a language model"


def given(**config):
    """A folder with weights, a tokenizer and that config.json."""

    def make(folder, llama_dir):
        shutil.copytree(llama_dir, folder)
        (folder / "config.json").write_text(json.dumps(config))

    return make


def changed(**config):
    """The tiny Llama with some of its config.json changed."""

    def make(folder, llama_dir):
        shutil.copytree(llama_dir, folder)
        old = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**old, **config}))

    return make


def holding(*files, without=("config.json", "model.safetensors"), text="{}"):
    """The tiny Llama with those files in place of others."""

    def make(folder, llama_dir):
        shutil.copytree(llama_dir, folder)
        for name in without:
            (folder / name).unlink()
        for name in files:
            (folder / name).write_text(text)

    return make


INDEX = '{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
REFUSED = {
    "unknown": (given(model_type="llama9"), "not know the family 'llama9' .*pip install -U transformers"),
    "nameless": (given(hidden_size=8), f"names no model_type, .*; {LM}"),
    "own code": (
        given(model_type="mine", auto_map={"AutoConfig": "a.C", "AutoModel": "a.M"}),
        "'mine' has no AutoModelForCausalLM in auto_map",
    ),
    "t5": (given(model_type="t5"), rf"family 't5', which reads .* \(encoder-decoder\); {LM}"),
    "bart": (given(model_type="bart"), r"family 'bart', which .*\(encoder-decoder\)"),
    "whisper": (given(model_type="whisper"), r"family 'whisper', which .* \(encoder-decoder\)"),
    "t5gemma2": (given(model_type="t5gemma2"), r"family 't5gemma2', which .* \(encoder-decoder\)"),
    "bert": (given(model_type="bert"), rf"family 'bert', which reads .* \(encoder\); {LM}"),
    "modernbert": (given(model_type="modernbert"), r"family 'modernbert', which .* \(encoder\)"),
    "clip": (given(model_type="clip"), f"family 'clip', which has no head that writes text; {LM}"),
    "blip": (given(model_type="blip"), "family 'blip', which needs an image with every text"),
    "omni": (given(model_type="qwen2_5_omni"), "Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained"),
    "diffusion": (given(model_type="diffusion_gemma"), "fills in blocks of text by diffusion"),
    "reward model": (
        changed(architectures=["LlamaForSequenceClassification"]),
        f"was saved as LlamaForSequenceClassification, whose head does not write text; {LM}",
    ),
    "embedding": (
        changed(architectures=["LlamaModel"]),
        f"was saved as LlamaModel, without the head that writes text; {LM}",
    ),
    "sentence-transformers": (
        holding("modules.json", without=()),
        "is a model of sentence-transformers, which makes vectors",
    ),
    "adapter": (
        holding("adapter_config.json", text='{"base_model_name_or_path": "org/base"}'),
        "is an adapter: name the folder of its base model, org/base, and the adapter in model.peft_model",
    ),
    "gguf": (holding("x.gguf"), "holds GGUF files, which are for llama.cpp"),
    "gguf with a config": (holding("x.gguf", without=["model.safetensors"]), "holds GGUF files"),
    "diffusers": (holding("model_index.json"), "is a pipeline of diffusers"),
    "maker's form": (holding("params.json", "consolidated.00.pth"), "in their maker's own form"),
    "run": (holding("iter_10.pth"), "holds checkpoints of a run: .* xtuner convert pth_to_hf"),
    "cut off": (
        holding("model.safetensors.index.json", "model-00001-of-00002.safetensors",
                without=["model.safetensors"], text=INDEX),
        "not complete: its index names 1 file that is not there, as model-00002-of-00002.safetensors",
    ),
    "pointers": (
        holding("model.safetensors", without=["model.safetensors"], text=POINTER),
        "holds pointers of git-lfs in the place of files, as model.safetensors: run git lfs install and git",
    ),
    **{
        f"{method} without its package": (
            changed(quantization_config={"quant_method": method}),
            f"quantised with {method}, which needs .*pip install .*, or name .* in 16 bits",
        )
        for method in ("gptq", "awq", "compressed-tensors", "aqlm", "hqq", "torchao")
    },
}  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with `d.json`, which is the current one."""
    monkeypatch.setattr(log, "_said", set())
    rows = [{"instruction": f"who are you {i}", "output": f"a small model {i}"} for i in range(8)]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config_for(here, llama_dir, method):
    """A config for a good folder, which then names the folder `model`."""
    shutil.copytree(llama_dir, here / "good")
    words = ["--model", "good", "--data", "d.json", "--method", method, "--out", "c.py"]
    assert cli.main(["new-cfg", *words]) == 0
    text = (here / "c.py").read_text().replace("'good'", "'model'")
    (here / "c.py").write_text(text)
    return load_config("c.py")


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_cannot_be_trained_is_one_line_everywhere(name, here, llama_dir, capsys):
    """new-cfg, check, train, and a model made in Python."""
    make, message = REFUSED[name]
    config = config_for(here, llama_dir, "lora")
    make(here / "model", llama_dir)
    capsys.readouterr()
    assert cli.main(["new-cfg", "--model", "model", "--data", "d.json", "--out", "my.py"]) == 1
    told = capsys.readouterr().err.splitlines()
    pattern = re.compile(message)
    assert len(told) == 1
    assert pattern.search(told[0]), told[0]
    words = told[0].removeprefix("xtuner: error: ")
    faults = [fault.message for fault in check_config(config).errors]
    assert faults == [f"model.llm.pretrained_model_name_or_path: {words}"]
    assert cli.main(["train", "c.py", "--work-dir", "w"]) == 1
    assert words in capsys.readouterr().err
    with pytest.raises(XTunerError) as error:
        SupervisedFinetune(
            {
                "type": AutoModelForCausalLM.from_pretrained,
                "pretrained_model_name_or_path": "model",
                "trust_remote_code": True,
            },
            lora=LoraConfig(r=2),
        )
    assert str(error.value) == words


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("full", "quantised with gptq, so they cannot be trained themselves: set model.lora"),
        ("qlora", "quantised with gptq already: remove model.llm.quantization_config"),
    ],
)
def test_quantised_weights_are_neither_trained_nor_quantised_again(
    method, message, here, llama_dir, capsys, monkeypatch
):
    """Said by new-cfg, check and train in the same words."""
    monkeypatch.setattr(loadable, "_PACKAGES", {})
    config = config_for(here, llama_dir, method)
    changed(quantization_config={"quant_method": "gptq"})(here / "model", llama_dir)
    capsys.readouterr()
    words = ["new-cfg", "--model", "model", "--data", "d.json", "--out", "my.py"]
    assert cli.main([*words, "--method", method]) == 1
    told = capsys.readouterr().err.strip().removeprefix("xtuner: error: ")
    assert message in told
    assert [f.message for f in check_config(config).errors] == [
        f"model.llm.pretrained_model_name_or_path: {told}"
    ]
    assert cli.main(["train", "c.py", "--work-dir", "w"]) == 1
    assert told in capsys.readouterr().err
    assert cli.main(words) == 0
    assert "method = lora  (its weights are quantised already, with gptq)" in capsys.readouterr().out
    assert check_config(load_config("my.py")).errors == []


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model_type": "qwen3"}, "AutoModelForCausalLM"),
        ({"model_type": "internlm2"}, "AutoModelForCausalLM"),
        ({"model_type": "gemma3_text"}, "AutoModelForCausalLM"),
        ({"model_type": "bert", "is_decoder": True}, "AutoModelForCausalLM"),
        ({"model_type": "llama", "architectures": ["LLaMAForCausalLM"]}, "AutoModelForCausalLM"),
        ({"model_type": "qwen3", "architectures": ["Qwen3Model"], "tie_word_embeddings": True},
         "AutoModelForCausalLM"),
        ({"model_type": "qwen3_5", "text_config": {}, "architectures": ["Qwen3_5ForConditionalGeneration"]},
         "AutoModelForImageTextToText"),
        ({"model_type": "llama4", "text_config": {}, "architectures": ["Llama4ForCausalLM"]},
         "AutoModelForCausalLM"),
        ({"model_type": "voxtral", "text_config": {}}, "AutoModelForMultimodalLM"),
        ({"model_type": "audioflamingo3", "text_config": {}}, "AutoModelForSeq2SeqLM"),
        ({"model_type": "git"}, "AutoModelForImageTextToText"),
    ],
)  # fmt: skip
def test_the_auto_class_of_a_config(config, name):
    """A model that is more than a language model is loaded whole, unless it was saved as that alone."""
    assert auto_class(config, "folder") == name


@pytest.mark.parametrize("family", seeing.FAMILIES)
def test_what_the_source_text_says_is_what_transformers_does(family):
    """The auto class that is named has the config's class."""
    import transformers

    config = seeing.config_of(family)
    named = getattr(transformers, auto_class(config.to_dict(), "folder"))
    assert type(config) in named._model_mapping


def test_the_tables_are_those_of_transformers():
    """Read in its source text, they are what importing it gives."""
    from transformers.models.auto import modeling_auto

    for task in ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM"):
        assert loadable._tables()[task] == dict(getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES"))
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    assert loadable.known_families() >= set(CONFIG_MAPPING_NAMES) - {"gpt-sw3"}


@pytest.mark.parametrize("full", [True, False])
def test_8_bit_floats_are_trained_in_16_bits(full, here, llama_dir, caplog):
    """They are widened while they are read: the logits are those of the widened weights."""
    folder = here / "model"
    shutil.copytree(llama_dir, folder)
    model = AutoModelForCausalLM.from_pretrained(llama_dir)
    weights, wanted = {}, model.state_dict()
    for name, weight in model.state_dict().items():
        if name.endswith("_proj.weight"):
            scale = weight.abs().max() / 448
            weights[name] = (weight / scale).to(torch.float8_e4m3fn)
            weights[name + "_scale_inv"] = scale.view(1, 1)
            wanted[name] = weights[name].float() * scale
        else:
            weights[name] = weight
    save_file(weights, folder / "model.safetensors")
    how = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": how}))
    with caplog.at_level("INFO"):
        tuned = SupervisedFinetune(
            {"type": AutoModelForCausalLM.from_pretrained, "pretrained_model_name_or_path": str(folder),
             "torch_dtype": torch.float32},
            lora=None if full else LoraConfig(r=2),
        )  # fmt: skip
    model.load_state_dict(wanted)
    ids = torch.arange(5, 25)[None]
    torch.testing.assert_close(tuned.llm(ids).logits, model(ids).logits, atol=1e-3, rtol=1e-2)
    assert "quantised with fp8; they are read and trained in 16 bits" in caplog.text
