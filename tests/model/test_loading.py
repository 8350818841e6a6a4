import json

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from xtuner.config import Ref
from xtuner.errors import ConfigError, ModelError, NotFoundError
from xtuner.model import SupervisedFinetune, loading
from xtuner.model.internlm2 import InternLM2ForCausalLM
from xtuner.model.loading import compute_dtype, extend_context, load_for_chat, load_llm
from xtuner.model.tokenizer import load_tokenizer


def llm_cfg(folder, **changes):
    return {
        "type": AutoModelForCausalLM.from_pretrained,
        "pretrained_model_name_or_path": str(folder),
        **changes,
    }


@pytest.mark.parametrize(
    ("requested", "bf16", "wanted"),
    [
        (torch.float16, True, torch.bfloat16),
        (torch.float16, False, torch.float32),
        ("bf16", False, torch.float32),
        ("torch.bfloat16", True, torch.bfloat16),
        ("float32", True, torch.float32),
        (None, True, torch.bfloat16),
        ("auto", False, torch.float32),
    ],
)
def test_a_cpu_gets_bf16_if_it_computes_in_it_else_fp32(monkeypatch, requested, bf16, wanted):
    """fp32 stays fp32."""
    monkeypatch.setattr(loading, "cpu_computes_in_bf16", lambda: bf16)
    assert compute_dtype(requested, "cpu") is wanted


def test_an_invalid_dtype_is_an_error():
    """The error lists the valid ones."""
    with pytest.raises(ConfigError, match="'fp17' is not a dtype"):
        compute_dtype("fp17", "cpu")


def test_a_tutorials_config_loads_natively_on_any_device(internlm2_dir):
    """fp16, device_map='auto', trust_remote_code=True and a type that is only a name."""
    cfg = llm_cfg(
        internlm2_dir,
        trust_remote_code=True,
        torch_dtype=Ref("torch.float16"),
        device_map="auto",
        low_cpu_mem_usage=True,
    )
    cfg["type"] = Ref("transformers.AutoModelForCausalLM.from_pretrained")
    before = dict(cfg)
    llm = load_llm(cfg)
    assert type(llm) is InternLM2ForCausalLM
    assert llm.dtype == compute_dtype(torch.float16)
    assert llm.config._attn_implementation == "xtuner"
    assert cfg == before


@pytest.mark.parametrize("asked", [{}, {"torch_dtype": torch.float16}, {"dtype": "float16"}])
def test_full_fine_tuning_starts_from_fp32_weights(llama_dir, asked):
    """Mixed precision needs fp32 masters; an explicit bf16 is kept."""
    assert SupervisedFinetune(llm_cfg(llama_dir, **asked)).llm.dtype == torch.float32
    asked = llm_cfg(llama_dir, torch_dtype=torch.bfloat16)
    assert SupervisedFinetune(asked).llm.dtype == compute_dtype(torch.bfloat16)


def test_a_configured_attention_is_kept(llama_dir):
    """eager stays eager; FlashAttention is not available on a CPU."""
    assert load_llm(llm_cfg(llama_dir, attn_implementation="eager")).config._attn_implementation == "eager"
    asked = llm_cfg(llama_dir, attn_implementation="flash_attention_2")
    assert load_llm(asked).config._attn_implementation == "xtuner"


def test_a_native_family_never_runs_the_folders_code(llama_dir, tmp_path):
    """A Llama folder that names Python files loads as Llama, with trust_remote_code=True too."""
    for file in llama_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "bad.Config", "AutoModelForCausalLM": "bad.Model"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "bad.py").write_text("raise SystemExit('the folder ran its code')")
    assert type(load_llm(llm_cfg(tmp_path, trust_remote_code=True))) is LlamaForCausalLM


def test_more_tokens_than_rows_grow_the_embedding(llama_dir, tokenizer):
    """Padded to 64; every new row, with or without a token, is the mean of the old ones."""
    import copy

    larger = copy.deepcopy(tokenizer)
    larger.add_tokens(["<a>", "<b>"])
    old = load_llm(llm_cfg(llama_dir))
    llm = load_llm(llm_cfg(llama_dir), tokenizer=larger)
    size = len(tokenizer)
    assert llm.get_input_embeddings().num_embeddings == llm.config.vocab_size == -(-(size + 2) // 64) * 64
    for before, after in ((old.model.embed_tokens, llm.model.embed_tokens), (old.lm_head, llm.lm_head)):
        assert torch.equal(after.weight[:size], before.weight)
        torch.testing.assert_close(after.weight[size:], before.weight.mean(0).expand_as(after.weight[size:]))
    assert load_llm(llm_cfg(llama_dir), tokenizer=tokenizer).config.vocab_size == size


def test_a_longer_context_scales_rope_and_a_shorter_one_does_not(llama_dir):
    """512 positions: 1100 need a factor of 3."""
    rope = load_llm(llm_cfg(llama_dir), max_position_embeddings=1100).config.rope_parameters
    assert (rope["rope_type"], rope["factor"]) == ("linear", 3.0)
    for length in (100, 512):
        llm = load_llm(llm_cfg(llama_dir), max_position_embeddings=length)
        assert llm.config.rope_parameters["rope_type"] == "default"


def test_rope_that_is_scaled_already_is_not_scaled_back(sizes):
    """A linear factor only grows; other scalings are the user's decision."""
    from transformers import GPT2Config

    config = LlamaConfig(**sizes, rope_scaling={"rope_type": "linear", "factor": 4.0})
    extend_context(config, 200)
    assert config.rope_parameters["factor"] == 4.0
    extend_context(config, 300)
    assert config.rope_parameters["factor"] == 5.0
    dynamic = LlamaConfig(**sizes, rope_scaling={"rope_type": "dynamic", "factor": 4.0})
    with pytest.raises(ConfigError, match="has 64 positions and already scales its rope by 'dynamic'"):
        extend_context(dynamic, 300)
    with pytest.raises(ConfigError, match="'gpt2' have no rotary positions"):
        extend_context(GPT2Config(), 5000)


def test_the_error_of_an_incomplete_folder_names_what_is_missing(tmp_path, llama_dir):
    """No folder, no config, no weights, no tokenizer, a broken config."""
    with pytest.raises(NotFoundError, match=r"There is no model folder .*nowhere"):
        load_llm(llm_cfg(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_llm(llm_cfg(tmp_path))
    (tmp_path / "config.json").write_bytes((llama_dir / "config.json").read_bytes())
    with pytest.raises(ModelError, match="has no weights"):
        load_llm(llm_cfg(tmp_path))
    with pytest.raises(ModelError, match="has no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_llm(llm_cfg(tmp_path))
    (tmp_path / "config.json").write_text("{broken")
    with pytest.raises(ModelError, match="is not valid JSON"):
        load_llm(llm_cfg(tmp_path))
    with pytest.raises(ConfigError, match=r"model\.llm has no type"):
        load_llm({})


def test_a_hub_name_without_internet_is_one_clear_error():
    """The tests run offline, as many machines do."""
    with pytest.raises(
        NotFoundError, match=r"no model someone/something on this machine.*path of its folder"
    ):
        load_tokenizer("someone/something")


@pytest.mark.parametrize("bits", [None, 4, 8])
def test_chat_gets_model_tokenizer_and_adapter_in_eval_mode(llama_dir, tmp_path, bits):
    """Any precision; with an adapter the logits differ from the base's."""
    from xtuner.model.lora import apply_lora

    tuned = apply_lora(LlamaForCausalLM.from_pretrained(llama_dir), LoraConfig(r=4))
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    tuned.save_pretrained(tmp_path)
    ids = torch.arange(5, 15)[None]
    base, tokenizer = load_for_chat(llama_dir, bits=bits, dtype="fp32")
    model, _ = load_for_chat(llama_dir, adapter=tmp_path, bits=bits, dtype="fp32")
    assert not model.training
    assert tokenizer("hello").input_ids
    with torch.no_grad():
        plain, adapted, wanted = base(ids).logits, model(ids).logits, tuned.eval()(ids).logits
    assert (adapted - plain).norm() > 0.1 * plain.norm()
    assert (adapted - wanted).norm() < (1e-5 if bits is None else 0.5) * wanted.norm()
    assert model.generate(ids, max_new_tokens=3, do_sample=False).shape == (1, 13)


@pytest.mark.parametrize("purpose", ["training", "chat"])
def test_a_dynamic_scale_of_rope_forgets_what_was_longer(llama_dir, tmp_path, purpose):
    """A text of 40 tokens after one of 60, both beyond 16 positions, has the same result as alone."""
    config = LlamaConfig.from_pretrained(llama_dir, max_position_embeddings=16)
    config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    load_tokenizer(llama_dir).save_pretrained(tmp_path)

    def fresh():
        if purpose == "chat":
            return load_for_chat(tmp_path, dtype="fp32")[0]
        return SupervisedFinetune(llm_cfg(tmp_path), use_activation_checkpointing=False).llm.eval()

    ids, model = torch.arange(60)[None] + 3, fresh()
    with torch.no_grad():
        model(ids)
        assert torch.equal(model(ids[:, :40]).logits, fresh()(ids[:, :40]).logits)


def test_fields_of_the_config_may_be_given_beside_it(llama_dir):
    """As in `from_pretrained`; a name that is neither a field nor an argument is an error."""
    llm = load_llm(llm_cfg(llama_dir, attention_dropout=0.25, torch_dtype=torch.float32))
    assert (llm.config.attention_dropout, llm.model.layers[0].self_attn.attention_dropout) == (0.25, 0.25)
    with pytest.raises(ModelError, match="unexpected keyword argument 'attention_dropping'"):
        load_llm(llm_cfg(llama_dir, attention_dropping=0.25))


def test_other_numbers_of_bits_are_refused(llama_dir):
    """4, 8 or None."""
    with pytest.raises(ConfigError, match="bits is 3"):
        load_for_chat(llama_dir, bits=3)


def test_each_of_several_processes_answers_on_its_own_device(monkeypatch):
    """A single process may use all GPUs; one of several uses the one of its rank."""
    from xtuner.model.loading import _map_for_chat

    device = torch.device("cuda", 1)
    assert _map_for_chat(device, None) == "auto"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert _map_for_chat(device, None) == {"": device}
