"""From training to merging for models whose files differ in names or parts: Gemma 3, packed experts."""

import json
import warnings
import weakref

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests import moe
from xtuner.chat.adapters import with_adapter, without_adapter
from xtuner.convert.merge import merge
from xtuner.convert.names import Names, empty_model
from xtuner.convert.pth_to_hf import pth_to_hf
from xtuner.convert.safetensors_stream import SafetensorsFile
from xtuner.convert.weights import Weights
from xtuner.engine.environment import adapter_files
from xtuner.errors import ModelError
from xtuner.model import SupervisedFinetune
from xtuner.model.loading import load_for_chat
from xtuner.model.lora import apply_lora, attach_adapter

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    # peft looks for patterns of experts' ranks among modules alone.
    pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern:RuntimeWarning"),
]
FAMILIES = [
    "deepseek_v3",
    "glm4_moe",
    "gpt_oss",
    "granitemoe",
    "jamba",
    "jetmoe",
    "llama4_text",
    "longcat_flash",
    "mixtral",
    "nemotron_h",
    "phimoe",
    "qwen2_moe",
    "qwen3_moe",
    "qwen3_next",
]


def make(family):
    return moe.make_gemma3() if family == "gemma3" else moe.make(family)


def saved(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture
def trained(tmp_path, write_config, save_checkpoint, tokenizer):
    """A base folder, an adapter folder as a run leaves it, and the logits of both together."""

    def train(family, lora="", **settings):
        base = tmp_path / "base"
        make(family).save_pretrained(base)
        tokenizer.save_pretrained(base)
        settings = {"r": 4, "lora_alpha": 6, "lora_dropout": 0.1, **settings}
        model = SupervisedFinetune(
            saved(base), lora=LoraConfig(**settings), use_activation_checkpointing=False
        )
        moe.randomise(model, 0.1)
        files = adapter_files(model.llm, None)
        words = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        config = write_config(base=base, lora=f"dict(type=LoraConfig, {words})")
        config.write_text("from peft import LoraConfig\n" + config.read_text())
        pth_to_hf(config, save_checkpoint(model.state_dict(), files), tmp_path / "adapter", fp32=True)
        return base, tmp_path / "adapter", moe.logits(model.llm)

    return train


def near(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", [*FAMILIES, "gemma3"])
def test_a_family_from_training_to_merging(family, trained, tmp_path):
    """Stock peft on transformers, chat and the merged folder equal the run's model; names are kept."""
    base, adapter, expected = trained(family)
    assert not torch.allclose(moe.logits(saved(base)), expected, atol=0.05)
    near(moe.logits(PeftModel.from_pretrained(saved(base), str(adapter))), expected)
    near(moe.logits(load_for_chat(base, adapter=adapter, dtype="fp32")[0]), expected)
    difference = merge(base, adapter, tmp_path / "merged", device="cpu")
    assert difference < 1e-3
    near(moe.logits(saved(tmp_path / "merged")), expected)
    before, after = Weights(base), Weights(tmp_path / "merged")
    assert before.infos == after.infos
    untouched = ("embed", "vision", "norm", "router", ".gate.")
    assert all(torch.equal(before[n], after[n]) for n in before if any(word in n for word in untouched))


@pytest.mark.parametrize(
    "lora",
    [
        {"use_rslora": True},
        {"target_modules": ["gate_proj", "up_proj", "down_proj"]},
        {"target_parameters": ["experts.down_proj", "gate.weight"], "lora_dropout": 0.0},
        {"modules_to_save": ["lm_head", "embed_tokens"]},
        {"rank_pattern": {"experts.down_proj": 3, "shared_experts.up_proj": 2}},
        {"layers_to_transform": [1], "target_modules": ["o_proj", "up_proj", "gate_proj"]},
    ],
    ids=lambda lora: next(iter(lora)),
)
def test_kinds_of_adapters_of_experts(lora, trained, tmp_path):
    """Run, stock peft and merged model give the same logits."""
    base, adapter, expected = trained("deepseek_v3", **lora)
    near(moe.logits(PeftModel.from_pretrained(saved(base), str(adapter))), expected)
    assert merge(base, adapter, tmp_path / "merged", device="cpu") < 1e-3
    near(moe.logits(saved(tmp_path / "merged")), expected)


@pytest.mark.parametrize("lora", [{}, {"use_dora": True}, {"bias": "all"}], ids=str)
def test_several_parameters_of_one_tensor(lora, tmp_path):
    """hrm_text's files join queries, keys and values; gate and up. One alone may be adapted, or replaced."""
    from transformers import HrmTextConfig

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(HrmTextConfig(**{**moe.TINY, "num_key_value_heads": 4}))
    moe.randomise(model, 0.3).save_pretrained(tmp_path / "base")
    model = apply_lora(
        saved(tmp_path / "base"), LoraConfig(r=4, target_modules=["k_proj", "up_proj"], **lora)
    )
    moe.randomise(model, 0.1).save_pretrained(tmp_path / "adapter")
    assert merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged", device="cpu") < 1e-3
    near(moe.logits(saved(tmp_path / "merged")), moe.logits(model))
    assert Weights(tmp_path / "base").infos == Weights(tmp_path / "merged").infos


def test_files_with_older_names(tmp_path):
    """Of a vision-language model whose language part is loaded alone, and a head called embed_out."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    base = tmp_path / "base"
    moe.randomise(GPTNeoXForCausalLM(GPTNeoXConfig(**moe.TINY))).save_pretrained(base)
    assert "embed_out.weight" in Weights(base)
    cfg = LoraConfig(r=4, target_modules=["query_key_value"], modules_to_save=["lm_head"])
    model = moe.randomise(apply_lora(saved(base), cfg), 0.1)
    model.save_pretrained(tmp_path / "adapter")
    assert merge(base, tmp_path / "adapter", tmp_path / "merged", device="cpu") < 1e-3
    near(moe.logits(saved(tmp_path / "merged")), moe.logits(model))


@pytest.mark.parametrize("family", [*moe.OWN, "gemma3"])
def test_tensors_of_files_become_parameters_and_back(family, tmp_path):
    """Every parameter is what transformers loads, every tensor what it saved; single experts too."""
    model = make(family)
    model.save_pretrained(tmp_path)
    weights, expected = Weights(tmp_path), model.state_dict()
    names = Names(empty_model(tmp_path), weights.infos)
    assert set(names.of_file) == set(weights)
    for file in weights:
        group, files, first = names.beside(file)
        made = names.to_model(group, {name: weights[name] for name in files})
        for name, tensor in made.items():
            whole = expected[name]
            own = whole if tensor.shape == whole.shape else whole[first : first + 1]
            assert torch.equal(tensor, own), name
        assert all(torch.equal(t, weights[n]) for n, t in names.to_files(group, made, files).items())


def test_memory_is_one_expert(trained, tmp_path, monkeypatch):
    """Files of experts are read and written one expert at a time: its gate beside its up matrix."""
    base, adapter, _ = trained("qwen3_moe")
    alive, most, read = [], 0, SafetensorsFile.read

    def watched(self, name):
        nonlocal most
        tensor = read(self, name)
        if "layers" in name and "lora" not in name:
            alive.append(weakref.ref(tensor))
        most = max(most, sum(ref() is not None for ref in alive))
        return tensor

    monkeypatch.setattr(SafetensorsFile, "read", watched)
    merge(base, adapter, tmp_path / "merged", device="cpu", check=False)
    assert len(alive) == len([name for name in Weights(base) if "layers" in name])
    assert most <= 2


def test_an_adapter_of_another_base_is_refused(trained, tmp_path):
    """Fewer experts, another family, no experts at all: one line each, and nothing is written."""
    _, adapter, _ = trained("qwen3_moe")
    others = {
        "few": (
            moe.make("qwen3_moe", num_experts=3, num_local_experts=3),
            r"rank 2 for 3 experts of the base .*few is \[6, 32\]",
        ),
        "dense": (
            moe.make("falcon_h1"),
            "target_parameters names 'experts.down_proj', which this model does not",
        ),
    }
    for name, (model, message) in others.items():
        model.save_pretrained(tmp_path / name)
        with pytest.raises(ModelError, match=message):
            merge(tmp_path / name, adapter, tmp_path / "merged", device="cpu")
        with pytest.raises(ModelError):
            attach_adapter(saved(tmp_path / name), adapter)
    assert not (tmp_path / "merged").exists()


def test_a_bias_for_a_layer_without_bias_is_refused(llama_dir, tmp_path):
    """`lora_bias` on layers without bias: the error names the bias, not the base."""
    model = apply_lora(saved(llama_dir), LoraConfig(r=2, target_modules=["q_proj"], lora_bias=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft takes the bias for a matrix cut in pieces
        model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"a bias for .*q_proj \(lora_bias\), and that layer of the base"):
        merge(llama_dir, tmp_path / "adapter", tmp_path / "merged", device="cpu")


@pytest.mark.parametrize(
    ("family", "version"), [("qwen3_moe", "0.18.1"), ("qwen3_moe", "0.19.0"), ("gpt_oss", "0.19.0")]
)
def test_adapters_of_experts_that_an_older_peft_wrote(family, version, trained, tmp_path):
    """Inputs and outputs were swapped: merged and loaded they give the same logits."""
    base, adapter, expected = trained(family, target_parameters=["experts.down_proj"], lora_dropout=0.0)
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    for name in [name for name in weights if "lora_A" in name]:
        a, b = weights[name], weights[other := name.replace("lora_A", "lora_B")]
        a, b = a.view(4, 4, -1), b.view(len(b), 4, 4)  # [E, r, in], [out, r, E]
        weights[name] = b.permute(2, 1, 0).reshape(16, -1).contiguous()
        weights[other] = a.permute(2, 1, 0).reshape(-1, 16).contiguous()
    save_file(weights, path)
    config = json.loads((adapter / "adapter_config.json").read_text()) | {"peft_version": version}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    assert merge(base, adapter, tmp_path / "merged", device="cpu") < 1e-3
    near(moe.logits(saved(tmp_path / "merged")), expected)
    near(moe.logits(attach_adapter(saved(base), adapter)), expected)


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_adapters_from_when_each_expert_had_layers(family, tmp_path):
    """As saved with transformers 4: chat and the merged folder equal W + s B A for every tensor."""
    make(family).save_pretrained(tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    adapter, words = {}, {"q_proj"}
    for name in [n for n in weights if ".experts." in n or "q_proj" in n]:
        out, width = weights[name].shape
        a, b = torch.randn(2, width) * 0.1, torch.randn(out, 2) * 0.1
        adapter |= {
            f"base_model.model.{name.removesuffix('weight')}lora_{x}.weight": t
            for x, t in (("A", a), ("B", b))
        }
        weights[name] += 3 * b @ a
        words.add(name.split(".")[-2])
    LoraConfig(r=2, lora_alpha=6, target_modules=sorted(words), task_type="CAUSAL_LM").save_pretrained(
        tmp_path / "adapter"
    )
    save_file(adapter, tmp_path / "adapter" / "adapter_model.safetensors")
    assert merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged", device="cpu") < 1e-3
    merged = Weights(tmp_path / "merged")
    assert all(torch.allclose(merged[name], tensor, atol=1e-6) for name, tensor in weights.items())
    near(
        moe.logits(attach_adapter(saved(tmp_path / "base"), tmp_path / "adapter")),
        moe.logits(saved(tmp_path / "merged")),
    )


def test_adapters_without_experts_of_earlier_versions(tmp_path):
    """Names in `target_modules` that now include experts: the file decides what the adapter has."""
    make("qwen2_moe").save_pretrained(tmp_path / "base")
    words = ["q_proj", "gate_proj", "up_proj", "down_proj", "shared_expert_gate"]
    model = get_peft_model(
        saved(tmp_path / "base"), LoraConfig(r=2, target_modules=words, task_type="CAUSAL_LM")
    )
    moe.randomise(model, 0.1).save_pretrained(tmp_path / "adapter")
    assert merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged", device="cpu") < 1e-3
    for found in (attach_adapter(saved(tmp_path / "base"), tmp_path / "adapter"), saved(tmp_path / "merged")):
        near(moe.logits(found), moe.logits(model))


def test_adapters_of_experts_are_exchanged(trained):
    """Chat removes one and loads another; nothing remains of the first."""
    base, adapter, expected = trained("qwen2_moe")
    model = saved(base)
    alone = moe.logits(model)
    for _ in range(2):
        model = with_adapter(model, adapter)
        near(moe.logits(model), expected)
    assert torch.equal(moe.logits(without_adapter(model)), alone)
    both = attach_adapter(attach_adapter(saved(base), adapter), adapter, name="second")
    for name in ("default", "second"):
        both.set_adapter(name)
        near(moe.logits(both), expected)
