"""Merging streams tensors and equals peft's own merge."""

import json
import shutil

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from xtuner.convert.merge import merge
from xtuner.convert.split import split
from xtuner.convert.weights import Weights
from xtuner.errors import ConfigError, ModelError, NotFoundError

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
IDS = torch.arange(3, 35).unsqueeze(0)


@pytest.fixture
def bias_dir(tmp_path, tokenizer):
    """A random Qwen2: biases on q, k, v, and tied embeddings."""
    torch.manual_seed(3)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_()
    model.save_pretrained(tmp_path / "qwen2")
    tokenizer.save_pretrained(tmp_path / "qwen2")
    return tmp_path / "qwen2"


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS, use_cache=False).logits.float()


def assert_merged(model, merged, atol=1e-5):
    found = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    expected = logits(model)
    assert torch.allclose(logits(found), expected, atol=atol), (logits(found) - expected).abs().max()


ADAPTERS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"layers.1.self_attn.q_proj": 2}, "alpha_pattern": {"down_proj": 32}},
    "dora": {"use_dora": True},
    "modules_to_save": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "head and embedding": {"target_modules": ["lm_head", "embed_tokens", "q_proj"]},
    "dora embedding": {"target_modules": ["embed_tokens", "v_proj"], "use_dora": True},
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_equals_base_and_adapter(llama_dir, make_adapter, tmp_path, name):
    """Every kind of LoRA gives the same logits merged and unmerged."""
    model, adapter = make_adapter(llama_dir, **ADAPTERS[name])
    difference = merge(llama_dir, adapter, tmp_path / "merged", device="cpu")
    assert difference < 1e-4
    assert_merged(model, tmp_path / "merged")


@pytest.mark.parametrize("lora", [{"bias": "all"}, {"bias": "lora_only"}, {"lora_bias": True}])
def test_biases(bias_dir, make_adapter, tmp_path, lora):
    """Trained biases of the base are replaced, biases of the adapter are added."""
    model, adapter = make_adapter(bias_dir, target_modules=["q_proj", "v_proj"], **lora)
    merge(bias_dir, adapter, tmp_path / "merged", device="cpu")
    assert_merged(model, tmp_path / "merged")


@pytest.mark.parametrize(
    "lora",
    [
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"target_modules": ["lm_head"]},
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_tied_embeddings_are_untied(bias_dir, make_adapter, tmp_path, lora, caplog):
    """If one of two tied matrices changed, the merged model holds both, as base + adapter do."""
    model, adapter = make_adapter(bias_dir, **lora)
    merge(bias_dir, adapter, tmp_path / "merged", device="cpu")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"] is False
    assert "tied embeddings" in caplog.text
    assert_merged(model, tmp_path / "merged")


def test_transposed_weights(tmp_path, make_adapter, tokenizer):
    """GPT-2's matrices are [in, out]; square ones follow those that are not, whatever fan_in_fan_out is."""
    torch.manual_seed(3)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    model, adapter = make_adapter(tmp_path / "gpt2", target_modules=["c_attn", "c_proj"])
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fan_in_fan_out": False}))
    merge(tmp_path / "gpt2", adapter, tmp_path / "merged", device="cpu", check=False)
    assert_merged(model, tmp_path / "merged")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_keeps_the_dtype_of_the_base(llama_dir, make_adapter, tmp_path, dtype):
    """A 16 bit base gives a 16 bit model: the exact sum, rounded once."""
    base = tmp_path / "base16"
    AutoModelForCausalLM.from_pretrained(llama_dir, dtype=dtype).save_pretrained(base)
    model, adapter = make_adapter(base, dtype=torch.float32)
    merge(base, adapter, tmp_path / "merged", device="cpu", check=False)
    expected = model.merge_and_unload().state_dict()
    found = Weights(tmp_path / "merged")
    for name, tensor in found.items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, expected[name].to(dtype)), name


@pytest.mark.parametrize("safe", [True, False])
def test_output_is_a_complete_model_folder(llama_dir, make_adapter, tmp_path, safe):
    """Shards with an index, configs, tokenizer and the model's own code; `.bin` on request."""
    base = shutil.copytree(llama_dir, tmp_path / "base")
    (base / "modeling_own.py").write_text("x = 1\n")
    (base / "README.md").write_text("the base's own page\n")
    _, adapter = make_adapter(base)
    (adapter / "xtuner_config.py").write_text("lr = 1\n")
    merge(base, adapter, tmp_path / "out", max_shard_size="200KB", safe_serialization=safe, check=False)
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    weights = [n for n in names if n.startswith(("model-", "pytorch_model-"))]
    index = "model.safetensors.index.json" if safe else "pytorch_model.bin.index.json"
    others = ["README.md", "config.json", "generation_config.json", "modeling_own.py", "tokenizer.json"]
    assert names == sorted([*weights, *others, "tokenizer_config.json", "xtuner_config.py", index])
    assert len(weights) > 2
    assert all((tmp_path / "out" / n).stat().st_size < 210_000 for n in weights)
    AutoTokenizer.from_pretrained(tmp_path / "out")
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_a_base_in_bin_shards(llama_dir, make_adapter, tmp_path):
    """A base in `.bin` files gives the same model as one in safetensors."""
    model, adapter = make_adapter(llama_dir)
    base = tmp_path / "bin"
    merge(llama_dir, adapter, base, safe_serialization=False, max_shard_size="200KB", check=False)
    split(llama_dir, tmp_path / "pieces")
    _, again = make_adapter(llama_dir, name="again")
    merge(tmp_path / "pieces", again, tmp_path / "merged", check=False)
    assert_merged(model, tmp_path / "merged")
    assert torch.equal(Weights(base)["lm_head.weight"], Weights(llama_dir)["lm_head.weight"])


def test_memory_is_one_tensor(llama_dir, make_adapter, tmp_path, monkeypatch):
    """Tensors are loaded one at a time, each after the previous one is freed."""
    import weakref

    from xtuner.convert import safetensors_stream

    alive: list = []
    most = 0
    read = safetensors_stream.SafetensorsFile.read

    def watched(self, name):
        nonlocal most
        most = max(most, sum(ref() is not None for ref in alive))
        tensor = read(self, name)
        if "layers" in name and "lora" not in name:
            alive.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(safetensors_stream.SafetensorsFile, "read", watched)
    _, adapter = make_adapter(llama_dir)
    merge(llama_dir, adapter, tmp_path / "merged", check=False)
    assert len(alive) == 18
    assert most <= 1


def test_another_base_is_refused(llama_dir, bias_dir, make_adapter, tmp_path):
    """An adapter for another base is an error that names both, and nothing is written."""
    _, adapter = make_adapter(llama_dir)
    with pytest.raises(ModelError, match=r"fits a .*down_proj.weight of shape \[64, 128\].*qwen2"):
        merge(bias_dir, adapter, tmp_path / "merged")
    _, adapter = make_adapter(llama_dir, name="deep", layers_to_transform=[1], target_modules=["q_proj"])
    with pytest.raises(ModelError, match=r"deep changes model.layers.1.*the base .*qwen2 does not have"):
        merge(bias_dir, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "LILY"}, "adapters of type LILY cannot be merged"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base before training"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices cannot be merged"),
        ({"r": 5}, "gives it rank 5"),
    ],
)
def test_an_adapter_that_cannot_be_merged(llama_dir, make_adapter, tmp_path, change, message):
    """Adapters that are not base + scaling * B @ A are refused."""
    _, adapter = make_adapter(llama_dir)
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=message):
        merge(llama_dir, adapter, tmp_path / "merged")


def test_wrong_arguments(llama_dir, make_adapter, tmp_path):
    """Missing folders, an unknown device, a base that is quantised: one clear error each."""
    _, adapter = make_adapter(llama_dir)
    with pytest.raises(NotFoundError, match="the base model '/nowhere' is not a folder"):
        merge("/nowhere", adapter, tmp_path / "merged")
    with pytest.raises(NotFoundError, match=r"no adapter_config\.json"):
        merge(llama_dir, llama_dir, tmp_path / "merged")
    with pytest.raises(ConfigError, match="device is 'tpu'"):
        merge(llama_dir, adapter, tmp_path / "merged", device="tpu")
    with pytest.raises(ConfigError, match="cannot be its output"):
        merge(llama_dir, adapter, llama_dir)
    base = shutil.copytree(llama_dir, tmp_path / "quantised")
    config = json.loads((base / "config.json").read_text()) | {"quantization_config": {"load_in_4bit": True}}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="are quantised"):
        merge(base, adapter, tmp_path / "merged")


@pytest.mark.parametrize("name", ["CLIP", "Siglip"])
def test_vision_tower(name, tmp_path):
    """With `is_clip` a folder of CLIP or SigLIP and an adapter of its vision tower give a vision model."""
    import transformers
    from peft import LoraConfig, get_peft_model

    config_class, whole, encoder = (
        getattr(transformers, f"{name}{kind}") for kind in ("Config", "Model", "VisionModel")
    )
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = config_class(
        text_config={**small, "vocab_size": 20}, vision_config={**small, "image_size": 8, "patch_size": 4}
    )
    whole(config).save_pretrained(tmp_path / "base")
    vision = encoder.from_pretrained(tmp_path / "base")
    model = get_peft_model(vision, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).eval()
    model.save_pretrained(str(tmp_path / "adapter"))
    difference = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged", is_clip=True)
    assert difference < 1e-5
    merged = encoder.from_pretrained(tmp_path / "merged").eval()
    pixels = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        expected = model(pixel_values=pixels).last_hidden_state
        assert torch.allclose(merged(pixel_values=pixels).last_hidden_state, expected, atol=1e-5)


@pytest.mark.parametrize("safe", [True, False])
def test_split_writes_one_file_per_tensor(llama_dir, make_adapter, tmp_path, safe):
    """As many shards as tensors, in the source's format, equal bit for bit, other files copied."""
    source = llama_dir
    if not safe:
        _, adapter = make_adapter(llama_dir)
        source = tmp_path / "bin"
        merge(llama_dir, adapter, source, safe_serialization=False, check=False)
    count = split(source, tmp_path / "pieces")
    before, after = Weights(source), Weights(tmp_path / "pieces")
    files = list((tmp_path / "pieces").glob("model-*.safetensors" if safe else "pytorch_model-*.bin"))
    assert len(files) == count == len(before)
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    AutoTokenizer.from_pretrained(tmp_path / "pieces")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "pieces")
    assert torch.equal(logits(model), logits(AutoModelForCausalLM.from_pretrained(source)))
