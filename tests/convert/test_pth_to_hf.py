"""A checkpoint becomes an adapter or model folder that peft and transformers load."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from tests.families.configs import make_model
from xtuner.convert.pth_to_hf import pth_to_hf
from xtuner.engine.environment import model_files
from xtuner.errors import CheckpointError, ConfigError, NotFoundError

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
LORA = "dict(type=LoraConfig, r=4, lora_alpha=8, lora_dropout=0.1, bias='none', task_type='CAUSAL_LM')"
IDS = torch.arange(3, 35).unsqueeze(0)


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=IDS, use_cache=False).logits.float()


def hf_files_of(folder):
    """What the engine stores of a base folder: text as text, the rest as bytes."""
    texts = {p.name: p.read_text() for p in folder.iterdir() if p.suffix == ".json"}
    return texts | {"tokenizer.model": torch.tensor(list(b"\x00\xffbytes"), dtype=torch.uint8)}


def test_peft_loads_the_adapter(llama_dir, make_adapter, run_state, write_config, save_checkpoint, tmp_path):
    """The adapter folder: four files, targets found in the weights, the same logits through peft."""
    from peft import PeftModel

    model, _ = make_adapter(llama_dir)
    config = write_config(base=llama_dir, lora=LORA)
    kind = pth_to_hf(config, save_checkpoint(run_state(model)), tmp_path / "hf", fp32=True)
    assert kind == "adapter"
    files = ["README.md", "adapter_config.json", "adapter_model.safetensors", "xtuner_config.py"]
    assert sorted(p.name for p in (tmp_path / "hf").iterdir()) == files
    said = json.loads((tmp_path / "hf" / "adapter_config.json").read_text())
    expected = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        "target_modules": ["down_proj", "q_proj"],
        "base_model_name_or_path": str(llama_dir),
        "inference_mode": True,
    }
    assert {key: said[key] for key in expected} == expected
    text = config.read_text().replace(str(llama_dir), llama_dir.name)
    assert (tmp_path / "hf" / "xtuner_config.py").read_text() == text
    base = AutoModelForCausalLM.from_pretrained(llama_dir)
    assert torch.equal(logits(PeftModel.from_pretrained(base, tmp_path / "hf")), logits(model))


@pytest.mark.parametrize(
    "extra",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"rank_pattern": {"q_proj": 2}},
    ],
)
def test_names_are_those_of_peft(
    llama_dir, make_adapter, run_state, write_config, save_checkpoint, tmp_path, extra
):
    """The tensors of the file are peft's own, by name and value, for every kind of LoRA."""
    model, folder = make_adapter(llama_dir, **extra)
    lora = f"dict(type=LoraConfig, r=4, lora_alpha=8, task_type='CAUSAL_LM', **{extra})"
    checkpoint = save_checkpoint(run_state(model))
    pth_to_hf(write_config(base=llama_dir, lora=lora), checkpoint, tmp_path / "hf", fp32=True)
    expected = load_file(folder / "adapter_model.safetensors")
    # peft adds the frozen embedding, which a run does not save.
    expected = {name: t for name, t in expected.items() if not name.endswith("base_layer.weight")}
    found = load_file(tmp_path / "hf" / "adapter_model.safetensors")
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_biases_keep_the_names_of_peft(
    tokenizer, make_adapter, run_state, write_config, save_checkpoint, tmp_path
):
    """Trained biases of the base are stored where peft looks for them."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "base")
    model, folder = make_adapter(tmp_path / "base", bias="all")
    lora = "dict(type=LoraConfig, r=4, bias='all', target_modules=['q_proj', 'down_proj'])"
    pth_to_hf(write_config(lora=lora), save_checkpoint(run_state(model)), tmp_path / "hf", fp32=True)
    found = load_file(tmp_path / "hf" / "adapter_model.safetensors")
    assert set(found) == set(load_file(folder / "adapter_model.safetensors"))


@pytest.mark.parametrize(
    ("run_dtype", "fp32", "expected"),
    [
        ("float16", False, torch.float16),
        ("bfloat16", False, torch.bfloat16),
        ("float32", False, torch.float16),
        ("bfloat16", True, torch.float32),
    ],
)
def test_dtype_of_an_adapter(
    llama_dir, make_adapter, run_state, write_config, save_checkpoint, tmp_path, run_dtype, fp32, expected
):
    """The 16 bit dtype of the run, fp32 on request; `.bin` on request too."""
    model, _ = make_adapter(llama_dir)
    config = write_config(base=llama_dir, dtype=run_dtype, lora=LORA)
    checkpoint = save_checkpoint(run_state(model))
    pth_to_hf(config, checkpoint, tmp_path / "hf", fp32=fp32, safe_serialization=False)
    found = torch.load(tmp_path / "hf" / "adapter_model.bin", weights_only=True)
    assert {t.dtype for t in found.values()} == {expected}


def test_a_full_run_needs_no_base(llama_dir, write_config, save_checkpoint, tmp_path):
    """Weights in shards with an index, config and tokenizer from the checkpoint; transformers loads it."""
    model = AutoModelForCausalLM.from_pretrained(llama_dir, dtype=torch.bfloat16)
    state = {f"llm.{name}": tensor for name, tensor in model.state_dict().items()}
    checkpoint = save_checkpoint(state, hf_files_of(llama_dir))
    kind = pth_to_hf(write_config(base="/gone"), checkpoint, tmp_path / "hf", max_shard_size="100KB")
    assert kind == "model"
    names = sorted(p.name for p in (tmp_path / "hf").iterdir())
    assert "model.safetensors.index.json" in names
    assert [n for n in names if not n.startswith("model")] == [
        "README.md",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "xtuner_config.py",
    ]
    assert (tmp_path / "hf" / "tokenizer.model").read_bytes() == b"\x00\xffbytes"
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert loaded.dtype == torch.bfloat16
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in loaded.state_dict().items())
    (tmp_path / "hf" / "tokenizer.model").unlink()
    assert len(AutoTokenizer.from_pretrained(tmp_path / "hf")) == len(
        AutoTokenizer.from_pretrained(llama_dir)
    )


def test_tied_embeddings_are_written_once(tokenizer, write_config, save_checkpoint, tmp_path):
    """If the head is tied to the embedding, only the embedding is written, as transformers does."""
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
    model.save_pretrained(tmp_path / "base")
    state = {f"llm.{name}": tensor for name, tensor in model.state_dict().items()}
    checkpoint = save_checkpoint(state, hf_files_of(tmp_path / "base"))
    pth_to_hf(write_config(), checkpoint, tmp_path / "hf", fp32=True)
    expected = load_file(tmp_path / "base" / "model.safetensors")
    found = load_file(tmp_path / "hf" / "model.safetensors")
    assert set(found) == set(expected)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "hf")), logits(model))


def test_missing_files_are_copied_from_the_base(llama_dir, write_config, save_checkpoint, tmp_path):
    """A checkpoint without config and tokenizer gets those of the base; without a base it is an error."""
    model = AutoModelForCausalLM.from_pretrained(llama_dir)
    checkpoint = save_checkpoint({f"llm.{name}": tensor for name, tensor in model.state_dict().items()})
    pth_to_hf(write_config(base=llama_dir), checkpoint, tmp_path / "hf", fp32=True)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "hf")), logits(model))
    with pytest.raises(CheckpointError, match=r"'/gone' is not a local model folder"):
        pth_to_hf(write_config(base="/gone"), checkpoint, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_options_reach_the_copy(llama_dir, make_adapter, run_state, write_config, save_checkpoint, tmp_path):
    """`--cfg-options` changes the output and the copied config."""
    model, _ = make_adapter(llama_dir)
    options = {"pretrained_model_name_or_path": "org/base"}
    checkpoint = save_checkpoint(run_state(model))
    pth_to_hf(write_config(lora=LORA), checkpoint, tmp_path / "hf", cfg_options=options)
    assert "org/base" in (tmp_path / "hf" / "xtuner_config.py").read_text()
    assert (
        json.loads((tmp_path / "hf" / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "org/base"
    )


def test_config_and_checkpoint_must_belong_together(
    llama_dir, make_adapter, run_state, write_config, save_checkpoint, tmp_path
):
    """LoRA in only one of them, another rank, foreign names, no file: one error, nothing written."""
    model, _ = make_adapter(llama_dir)
    checkpoint = save_checkpoint(run_state(model))
    with pytest.raises(CheckpointError, match=r"sets no lora, but .* holds LoRA weights"):
        pth_to_hf(write_config(), checkpoint, tmp_path / "hf")
    with pytest.raises(CheckpointError, match=r"model.lora.r is 64, but .* have rank \[4\]"):
        pth_to_hf(write_config(lora="dict(type=LoraConfig, r=64)"), checkpoint, tmp_path / "hf")
    with pytest.raises(CheckpointError, match=r"trains LoRA, but .* holds no LoRA weights"):
        pth_to_hf(write_config(lora=LORA), save_checkpoint({"llm.x": torch.ones(1)}), tmp_path / "hf")
    with pytest.raises(CheckpointError, match=r"'projector.w', which is not part of a language model"):
        pth_to_hf(write_config(), save_checkpoint({"projector.w": torch.ones(1)}), tmp_path / "hf")
    with pytest.raises(NotFoundError, match=r"nothing\.pth"):
        pth_to_hf(write_config(), tmp_path / "nothing.pth", tmp_path / "hf")
    with pytest.raises(ConfigError, match="max_shard_size is 'much'"):
        pth_to_hf(write_config(), checkpoint, tmp_path / "hf", max_shard_size="much")
    assert not (tmp_path / "hf").exists()


def test_values_beyond_float16_are_an_error(write_config, llama_dir, save_checkpoint, tmp_path):
    """A weight that fp16 cannot hold stops the conversion and names the cure."""
    state = {"llm.norm.weight": torch.tensor([1.0, 70000.0])}
    checkpoint = save_checkpoint(state, hf_files_of(llama_dir))
    with pytest.raises(CheckpointError, match=r"norm.weight reaches 7e\+04, beyond float16: use --fp32"):
        pth_to_hf(write_config(), checkpoint, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("family", ["qwen2_moe", "mixtral", "gpt_oss", "gemma3"])
def test_a_full_run_has_the_names_of_files_that_the_family_has(
    family, run_state, write_config, save_checkpoint, tmp_path
):
    """The names of `save_pretrained`, with separate experts, which other programs read."""
    model = make_model(family)
    model.save_pretrained(tmp_path / "stock")
    files = model_files(model, None)
    checkpoint = save_checkpoint(run_state(model), files)
    assert pth_to_hf(write_config(), checkpoint, tmp_path / "hf", fp32=True) == "model"
    stock, ours = (load_file(tmp_path / name / "model.safetensors") for name in ("stock", "hf"))
    assert stock.keys() == ours.keys()
    assert all(torch.equal(stock[name], ours[name]) for name in stock)
