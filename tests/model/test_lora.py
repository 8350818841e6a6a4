import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model

from tests.families.configs import make_model
from xtuner.errors import ConfigError, ModelError, NotFoundError
from xtuner.model import SupervisedFinetune
from xtuner.model.lora import apply_lora, attach_adapter
from xtuner.model.state import adapter_state_dict
from xtuner.model.targets import linear_layer_names

LINEARS = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def randomise(model):
    """Adapters with random lora_B instead of zeros."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)


def test_without_targets_all_linear_layers_but_the_head_are_adapted(llama):
    """The head is recognised as the output embedding, not by its name."""
    assert linear_layer_names(llama) == LINEARS
    model = apply_lora(llama, LoraConfig(r=4))
    adapted = {name.split(".")[-4] for name, p in model.named_parameters() if p.requires_grad}
    assert adapted == set(LINEARS)
    assert model.peft_config["default"].task_type == TaskType.CAUSAL_LM


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_loss_and_gradients_are_those_of_peft_itself(llama, batch, naive_loss, gradients, relative_error):
    """The same adapter created by peft and run sample by sample through stock code."""
    cfg = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type=TaskType.CAUSAL_LM)
    reference = PeftModel(copy.deepcopy(llama), copy.deepcopy(cfg))
    randomise(reference)
    model = SupervisedFinetune(llama, lora=cfg)
    randomise(model)
    wanted = naive_loss(reference, batch)
    wanted.backward()
    loss = model.train()(batch)["loss"]
    loss.backward()
    assert abs(loss.item() - wanted.item()) < 1e-12
    ours, theirs = gradients(model.llm), gradients(reference)
    assert ours.keys() == theirs.keys()
    assert max(relative_error(ours[n], theirs[n]) for n in ours) < 1e-9
    assert cfg.target_modules == {"q_proj", "down_proj"}


def test_the_base_keeps_its_precision_and_the_adapter_is_fp32(llama, batch):
    """bf16 base, fp32 adapters and fp32 copies in modules_to_save between bf16 layers."""
    cfg = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"])
    model = SupervisedFinetune(llama.bfloat16(), lora=cfg).train()
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16), name
    model(batch)["loss"].backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_state_dict_holds_the_adapter_alone_and_loads_back(llama):
    """Names as in checkpoints of the original; frozen weights are not in it."""
    cfg = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = SupervisedFinetune(llama, lora=cfg)
    randomise(model)
    state = model.state_dict()
    at = "llm.base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.default.weight"
    expected = {at.format(i, x) for i in range(2) for x in "AB"}
    assert set(state) == {*expected, "llm.base_model.model.lm_head.modules_to_save.default.weight"}
    saved = {name: value.clone() for name, value in state.items()}
    randomise(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    model.load_state_dict(saved)
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


def test_a_target_that_matches_no_layer_is_an_error_with_a_suggestion(llama):
    """The message lists the layers."""
    lists = (
        r"'q_prj', which this model does not have; its linear layers are down_proj, .* Did you mean 'q_proj'"
    )
    with pytest.raises(ConfigError, match=lists):
        apply_lora(llama, LoraConfig(target_modules=["q_prj", "v_proj"]))


def test_targets_may_be_a_pattern_and_other_names_of_peft(llama):
    """A string is a pattern for whole names; "all-linear" is defined by peft."""
    model = apply_lora(copy.deepcopy(llama), LoraConfig(target_modules=r".*layers\.1\..*q_proj", r=2))
    assert sum(p.requires_grad for p in model.parameters()) == 2
    model = apply_lora(copy.deepcopy(llama), LoraConfig(target_modules="all-linear", r=2))
    assert sum(p.requires_grad for p in model.parameters()) == 2 * 2 * len(LINEARS)
    with pytest.raises(ConfigError, match="nothing_like_it"):
        apply_lora(llama, LoraConfig(target_modules="nothing_like_it"))


def test_inference_mode_does_not_freeze_the_adapter(llama):
    """With inference_mode=True in the config the adapter is still trained, which is logged."""
    model = apply_lora(llama, LoraConfig(r=2, inference_mode=True))
    assert any(p.requires_grad for p in model.parameters())


@pytest.fixture
def adapter(llama, tmp_path):
    """A saved adapter on q_proj, and the logits of the base with it."""
    model = apply_lora(copy.deepcopy(llama), LoraConfig(r=4, target_modules=["q_proj"]))
    randomise(model)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", model.eval()(torch.arange(9)[None]).logits


def test_an_adapter_attaches_to_its_base(llama, adapter):
    """Frozen for chat, trainable for more training; the same logits either way."""
    folder, logits = adapter
    model = attach_adapter(copy.deepcopy(llama), folder).eval()
    torch.testing.assert_close(model(torch.arange(9)[None]).logits, logits)
    assert not any(p.requires_grad for p in model.parameters())
    model = SupervisedFinetune(llama, peft_model=str(folder))
    torch.testing.assert_close(model.eval().llm(torch.arange(9)[None]).logits, logits)
    assert len(model.state_dict()) == 4


@pytest.mark.parametrize("family", ["laguna", "inkling2_text"])
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_every_weight_of_an_adapter_is_loaded(family, tmp_path):
    """Also weights that peft would rename, as in older files of a family, and lose."""
    base = make_model(family)
    layers = [name for name, m in base.named_modules() if type(m) is torch.nn.Linear and "head" not in name]
    config = LoraConfig(r=2, target_modules=layers, init_lora_weights=False, task_type="CAUSAL_LM")
    saved = get_peft_model(copy.deepcopy(base), config)
    saved.save_pretrained(tmp_path)
    loaded = dict(attach_adapter(base, tmp_path).named_parameters())
    assert all(torch.equal(weight, loaded[name]) for name, weight in saved.named_parameters())


def test_lora_continues_from_a_folder_or_a_checkpoint(llama, adapter, tmp_path, caplog):
    """With `peft_model` the adapter starts from the saved weights; a folder has its own settings."""
    folder, logits = adapter
    cfg = LoraConfig(r=4, target_modules=["q_proj"])
    other = LoraConfig(r=64, lora_alpha=1)
    first = SupervisedFinetune(copy.deepcopy(llama), lora=other, peft_model=str(folder))
    assert "r=64 (the adapter's is 4), lora_alpha=1 (the adapter's is" in caplog.text
    torch.save({"state_dict": first.state_dict()}, tmp_path / "iter_1.pth")
    second = SupervisedFinetune(llama, lora=cfg, peft_model=str(tmp_path / "iter_1.pth"))
    for model in (first, second):
        torch.testing.assert_close(model.eval().llm(torch.arange(9)[None]).logits, logits)
    with pytest.raises(NotFoundError, match=r"model\.peft_model = 'nowhere'"):
        SupervisedFinetune(llama, lora=cfg, peft_model="nowhere")


def test_an_adapter_for_another_base_is_one_clear_line(adapter, sizes):
    """Other shapes, other layers, other depth."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    folder, _ = adapter
    wide = LlamaForCausalLM(LlamaConfig(**{**sizes, "hidden_size": 128}))
    with pytest.raises(
        ModelError, match=r"another base model .*q_proj.* is \(4, 64\) there and \(4, 128\) here"
    ):
        attach_adapter(wide, folder)
    other = GPT2LMHeadModel(GPT2Config(vocab_size=128, n_embd=32, n_layer=1, n_head=2))
    with pytest.raises(ModelError, match="does not fit the base model GPT2LMHeadModel: Target modules"):
        attach_adapter(other, folder)
    deep = LlamaForCausalLM(LlamaConfig(**{**sizes, "num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"it has no .*layers\.2"):
        attach_adapter(deep, folder)
    shallow = LlamaForCausalLM(LlamaConfig(**{**sizes, "num_hidden_layers": 1}))
    with pytest.raises(ModelError, match="2 weights for layers that"):
        attach_adapter(shallow, folder)


def test_a_base_of_another_name_is_logged(llama, adapter, caplog):
    """It may be the same model at another path, so it is a warning."""
    folder, _ = adapter
    config = (
        (folder / "adapter_config.json")
        .read_text()
        .replace('"base_model_name_or_path": null', '"base_model_name_or_path": "a/one"')
    )
    (folder / "adapter_config.json").write_text(
        config.replace('"base_model_name_or_path": ""', '"base_model_name_or_path": "a/one"')
    )
    llama.config._name_or_path = "b/two"
    with caplog.at_level("WARNING", logger="xtuner"):
        attach_adapter(llama, folder)
    assert "was made for a/one; it is put on b/two" in caplog.text


def test_broken_adapter_folders_are_named(tmp_path, llama):
    """Missing folder, missing config, missing or unreadable weights."""
    with pytest.raises(NotFoundError, match="no adapter folder"):
        attach_adapter(llama, tmp_path / "none")
    (tmp_path / "lfs").mkdir()
    (tmp_path / "lfs" / "adapter_config.json").write_text("{}")
    (tmp_path / "lfs" / "adapter_model.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(
        ModelError, match=r"holds pointers of git-lfs in the place of files, as adapter_model"
    ):
        attach_adapter(llama, tmp_path / "lfs")
    with pytest.raises(ModelError, match=r"has no adapter_config\.json"):
        attach_adapter(llama, tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="has no weights"):
        attach_adapter(llama, tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match="cannot be read as weights"):
        attach_adapter(llama, tmp_path)


@pytest.mark.parametrize(
    "options", [{"use_dora": True}, {"bias": "lora_only"}, {"modules_to_save": ["lm_head", "embed_tokens"]}]
)
def test_names_in_the_adapter_file_are_pefts(llama, options, tmp_path):
    """`adapter_state_dict` equals what peft would save, in names and values."""
    from peft import get_peft_model_state_dict
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    base = Qwen2ForCausalLM(Qwen2Config(**sizes, num_attention_heads=4, num_key_value_heads=2))
    model = SupervisedFinetune(base, lora=LoraConfig(r=2, target_modules=["q_proj", "v_proj"], **options))
    randomise(model)
    wanted = get_peft_model_state_dict(model.llm, save_embedding_layers=False)
    ours = adapter_state_dict(model.state_dict())
    assert ours.keys() == wanted.keys()
    assert all(torch.equal(ours[name], wanted[name]) for name in wanted)
