"""What DPO compares with where no adapter can be switched off: a frozen copy, or a model of its own."""

import copy

import pytest
import torch
from peft import LoraConfig

from tests.model import plain_preferences as plain
from tests.model.test_dpo import BETA, plain_dpo
from xtuner.dataset.collate_fns.preference_collate_fn import preference_collate_fn
from xtuner.errors import ConfigError
from xtuner.model.dpo import DPO
from xtuner.model.pairs import REWARDS

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def of_folder(folder, **more):
    from transformers import AutoModelForCausalLM

    kind = AutoModelForCausalLM.from_pretrained
    return {"type": kind, "pretrained_model_name_or_path": str(folder), **more}


def other(llama):
    """The same model with other weights."""
    changed = copy.deepcopy(llama)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return changed


@pytest.mark.parametrize("given", [False, True])
def test_full_training_equals_plain_torch_with_two_models(llama, items, given, gradients, relative_error):
    """All weights are trained; the reference is a given model, or the model as it was before."""
    base = other(llama) if given else copy.deepcopy(llama)
    policy = copy.deepcopy(llama)
    model = DPO(llama, ref_llm=copy.deepcopy(base) if given else None, beta=BETA).train()
    if not given:
        changed = other(policy)
        policy.load_state_dict(changed.state_dict())
        model.llm.load_state_dict(changed.state_dict())
    with plain.exact_norms():
        wanted, wanted_sums = plain_dpo(policy, base, items, 0.0)
        (wanted / 3).backward()
    outputs = model(preference_collate_fn(items)["data"], num_items=3)
    outputs["loss"].backward()
    assert outputs["loss"].item() == pytest.approx(wanted.item() / 3, rel=1e-12)
    sums = torch.stack([outputs["sums"][name] for name in model.metrics])
    torch.testing.assert_close(sums, wanted_sums, rtol=1e-10, atol=1e-12)
    ours, theirs = gradients(model.llm), gradients(policy)
    assert ours.keys() == theirs.keys() == {name for name, _ in policy.named_parameters()}
    assert max(relative_error(ours[n], theirs[n]) for n in ours) < 1e-9
    assert not gradients(model.reference)


def test_a_given_reference_beside_an_adapter(llama, items):
    """The model with its adapter on is compared with the given one, not with its own base."""
    base = other(llama)
    with plain.exact_norms():
        _, wanted = plain_dpo(llama, base, items, 0.0)
    model = DPO(copy.deepcopy(llama), ref_llm=base, beta=BETA, lora=LoraConfig(r=4)).train()
    sums = model(preference_collate_fn(items)["data"])["sums"]
    torch.testing.assert_close(torch.stack([sums[n] for n in model.metrics]), wanted, rtol=1e-10, atol=1e-12)
    assert all("lora_" in name for name in model.state_dict())


def test_a_frozen_copy_is_not_in_checkpoints(llama):
    """The state is that of the trained model, loads again, and leaves the reference alone."""
    model = DPO(llama)
    names = {f"llm.{name}" for name in llama.state_dict()}
    assert model.state_dict().keys() == names
    assert not any(p.requires_grad for p in model.reference.parameters())
    before = copy.deepcopy(model.reference.llm.state_dict())
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    model.load_state_dict(state)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    after = model.reference.llm.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert set(model.parts()) == {"llm", "reference"}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_before_training_there_is_no_preference(llama_dir, items, dtype, monkeypatch):
    """Rewards are 0 to the last bit: the copy of a model in a folder has the precision of the trained one."""
    monkeypatch.setattr("xtuner.model.loading.cpu_computes_in_bf16", lambda: True)
    model = DPO(of_folder(llama_dir, torch_dtype=dtype), use_activation_checkpointing=False).train()
    sums = model(preference_collate_fn(items)["data"])["sums"]
    none = dict.fromkeys((*REWARDS, "kl"), 0.0)
    assert {name: sums[name].item() for name in none} == none


def test_a_reference_has_its_own_precision(llama_dir, items, monkeypatch):
    """bf16 beside trained weights in fp32."""
    monkeypatch.setattr("xtuner.model.loading.cpu_computes_in_bf16", lambda: True)
    reference = of_folder(llama_dir, torch_dtype=torch.bfloat16)
    model = DPO(of_folder(llama_dir, torch_dtype=torch.float32), ref_llm=reference).train()
    assert {p.dtype for p in model.llm.parameters()} == {torch.float32}
    assert {p.dtype for p in model.reference.parameters()} == {torch.bfloat16}
    rewards = model(preference_collate_fn(items)["data"])["sums"]["reward_margin"]
    assert 0 < abs(rewards.item()) < 0.05


def test_a_reference_in_four_bits(llama_dir, items):
    """The trained weights are whole."""
    from transformers import BitsAndBytesConfig

    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = DPO(of_folder(llama_dir), ref_llm=of_folder(llama_dir, quantization_config=four_bits)).train()
    kinds = {type(p).__name__ for p in model.reference.parameters()}
    assert kinds == {"Parameter", "Params4bit"}
    outputs = model(preference_collate_fn(items)["data"])
    outputs["loss"].backward()
    assert outputs["loss"].isfinite()
    assert all(p.grad is not None for p in model.llm.parameters())


def test_a_reference_has_no_dropout(llama, items):
    """Also while the trained model has it."""
    llama.config.attention_dropout = 0.5
    for layer in llama.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model = DPO(llama, beta=BETA).train()
    assert model.llm.training
    ids = torch.arange(3, 12)[None]
    first, second = (model.reference.llm(input_ids=ids).logits for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(*(model.llm(input_ids=ids).logits for _ in range(2)))


def test_the_model_as_its_own_reference_is_logged(llama_dir, caplog, monkeypatch):
    """With the same settings: it is what is compared with anyway; in another precision it is a choice."""
    monkeypatch.setattr("xtuner.log._said", set())
    lora = LoraConfig(r=2)
    half = of_folder(llama_dir, torch_dtype=torch.float64)
    DPO(of_folder(llama_dir), ref_llm=half, lora=lora)
    assert "leave it out" not in caplog.text
    DPO(of_folder(llama_dir), ref_llm=of_folder(llama_dir), lora=lora)
    assert f"model.ref_llm is model.llm itself, {str(llama_dir)!r}: leave it out" in caplog.text


def test_a_reference_with_other_tokens_is_named(llama, llama_dir, saved, tmp_path):
    """By their number; of folders with tokenizers, by the first token that has another number."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    small = LlamaForCausalLM(
        LlamaConfig(vocab_size=64, hidden_size=8, num_attention_heads=2, num_hidden_layers=1)
    )
    message = "model.ref_llm has 64 tokens and model.llm 128: the reference must have the same vocabulary"
    with pytest.raises(ConfigError, match=message):
        DPO(llama, ref_llm=small)
    # As many tokens, of which two have changed places.
    LlamaForCausalLM.from_pretrained(llama_dir).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(llama_dir)
    tokenizer.save_pretrained(tmp_path)
    text = (tmp_path / "tokenizer.json").read_text()
    text = text.replace('"A": ', '"\0": ').replace('"B": ', '"A": ').replace('"\0": ', '"B": ')
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ConfigError, match=r"another vocabulary than model.llm: token '[AB]' is \d+ there"):
        DPO(of_folder(llama_dir), ref_llm=of_folder(tmp_path))


def test_training_on_from_an_adapter_names_the_reference(llama_dir, tmp_path, caplog):
    """The reference is the base, not the adapter that training starts from."""
    from transformers import AutoModelForCausalLM

    from xtuner.model.lora import apply_lora

    adapted = apply_lora(AutoModelForCausalLM.from_pretrained(llama_dir), LoraConfig(r=2))
    adapted.save_pretrained(tmp_path)
    DPO(of_folder(llama_dir), peft_model=str(tmp_path))
    assert "The reference is the base model without the adapter model.peft_model = " in caplog.text
