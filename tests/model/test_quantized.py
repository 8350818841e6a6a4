import copy
import logging

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

from xtuner.errors import ConfigError
from xtuner.model import SupervisedFinetune
from xtuner.model.loading import compute_dtype, load_for_chat


def config(folder, bits, dtype=torch.float32):
    """The llm part of a tutorial's QLoRA config."""
    return {
        "type": AutoModelForCausalLM.from_pretrained,
        "pretrained_model_name_or_path": str(folder),
        "torch_dtype": dtype,
        "quantization_config": {
            "type": BitsAndBytesConfig,
            "load_in_4bit": bits == 4,
            "load_in_8bit": bits == 8,
            "llm_int8_threshold": 6.0,
            "llm_int8_has_fp16_weight": False,
            "bnb_4bit_compute_dtype": dtype,
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_quant_type": "nf4",
        },
    }


def tuned(folder, bits, dtype=torch.float32, **options):
    """A QLoRA model whose adapter does something, and the same with its base dequantised."""
    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, **options)
    model = SupervisedFinetune(config(folder, bits, dtype), lora=lora)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def dequantised(model):
    """Plain linear layers with the numbers that the quantised ones stand for."""
    import bitsandbytes as bnb

    reference = copy.deepcopy(model)
    for module in reference.modules():
        base = getattr(module, "base_layer", None)
        if isinstance(base, bnb.nn.Linear4bit | bnb.nn.Linear8bitLt):
            if isinstance(base, bnb.nn.Linear4bit):
                weight = bnb.functional.dequantize_4bit(base.weight.data, base.weight.quant_state)
            else:
                weight = base.weight.data.float() * base.weight.SCB[:, None] / 127
            module.base_layer = torch.nn.Linear(base.in_features, base.out_features, bias=False)
            module.base_layer.weight = torch.nn.Parameter(weight.float(), requires_grad=False)
    return reference


def adapter_gradients(model, batch, gradients):
    model.zero_grad()
    model(batch)["loss"].backward()
    return torch.cat([g.flatten() for g in gradients(model).values()])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("after_sampling", [False, True])
def test_gradients_are_those_of_the_dequantised_model(
    llama_dir, batch, bits, after_sampling, gradients, relative_error
):
    """Also after a generation, which on some CPUs repacks 4-bit weights and breaks their gradient."""
    model = tuned(llama_dir, bits)
    reference = adapter_gradients(dequantised(model), batch, gradients)
    if after_sampling:
        model.eval()
        with torch.no_grad():
            model.llm(input_ids=batch["input_ids"][:, :6])
            model.generate(input_ids=batch["input_ids"][:, :4], max_new_tokens=3, do_sample=False)
        model.train()
    ours = adapter_gradients(model, batch, gradients)
    # 8-bit layers round their inputs too.
    assert relative_error(ours, reference) < (1e-5 if bits == 4 else 0.05)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_tutorials_precision_trains_on_any_device(internlm2_dir, batch, bits):
    """fp16 everywhere and wqkv as target: a few updates lower the loss; the base is not upcast."""
    targets = ["wqkv", "wo", "w1", "w2", "w3"]
    model = tuned(internlm2_dir, bits, torch.float16, target_modules=targets)
    assert model.llm.dtype == compute_dtype(torch.float16)
    assert model.llm.get_input_embeddings().weight.dtype == compute_dtype(torch.float16)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(5):
        loss = model(batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert model.load_state_dict(model.state_dict()).missing_keys == []


def test_layers_are_quantised_and_the_head_is_not(llama_dir):
    """4-bit weights are bytes; the compute dtype is one that the device has."""
    import bitsandbytes as bnb

    model = tuned(llama_dir, 4, torch.float16)
    linears = [m for m in model.modules() if isinstance(m, bnb.nn.Linear4bit)]
    assert len(linears) == 14
    assert {m.weight.dtype for m in linears} == {torch.uint8}
    assert {m.compute_dtype for m in linears} == {compute_dtype(torch.float16)}
    assert not any(m.support_avx512bf16_for_cpu for m in linears)
    assert type(model.llm.get_output_embeddings()) is torch.nn.Linear


def test_quantised_weights_cannot_be_trained_themselves(llama_dir):
    """Without an adapter there is nothing to train; the error says what to add."""
    with pytest.raises(ConfigError, match=r"add lora=dict\(type=LoraConfig"):
        SupervisedFinetune(config(llama_dir, 4))


def test_both_bits_off_is_no_quantisation(llama_dir):
    """load_in_4bit=False and load_in_8bit=False load plain weights."""
    model = SupervisedFinetune(config(llama_dir, None), lora=LoraConfig(r=2))
    assert not getattr(model.llm.get_base_model(), "is_quantized", False)


@pytest.fixture
def make_llama(tmp_path, tokenizer):
    """A folder with a random Llama of these widths."""

    def make(**sizes):
        config = LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=1, num_attention_heads=4, **sizes)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return tmp_path

    return make


@pytest.fixture
def repacking_cpu(monkeypatch):
    """A CPU for which bitsandbytes repacks 4-bit weights at the first forward in eval mode."""
    from bitsandbytes.nn import modules

    monkeypatch.setattr(modules, "has_avx512bf16", lambda: True)


def logits_of_dequantised(model, ids):
    """What plain layers with the numbers of the 4-bit ones answer, in float64."""
    import bitsandbytes as bnb

    reference = copy.deepcopy(model)
    for name, module in list(reference.named_modules()):
        if isinstance(module, bnb.nn.Linear4bit):
            plain = torch.nn.Linear(module.in_features, module.out_features, bias=False)
            weight = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            plain.weight = torch.nn.Parameter(weight, requires_grad=False)
            parent, _, last = name.rpartition(".")
            setattr(reference.get_submodule(parent), last, plain)
    return reference.double()(ids).logits


@torch.no_grad()
def test_chat_in_4_bits_takes_any_width(make_llama, repacking_cpu, relative_error, caplog):
    """Widths of no whole blocks of 64, and heights that are no multiple of 32, as the weights say."""
    folder = make_llama(hidden_size=96, intermediate_size=160, num_key_value_heads=1)
    with caplog.at_level(logging.INFO):
        model, _ = load_for_chat(folder, bits=4, dtype="fp32")
    ids = torch.arange(5, 15)[None]
    wanted = logits_of_dequantised(model, ids)
    assert relative_error(model(ids).logits, wanted) < 1e-6
    assert "7 of 7 layers in 4 bits have sizes that bitsandbytes' kernel for this CPU lacks" in caplog.text


def test_layers_of_whole_blocks_keep_the_fast_kernel(make_llama, repacking_cpu, caplog):
    """Only a layer of broken blocks, or whose number of rows is no multiple of 32, goes without."""
    folder = make_llama(hidden_size=128, intermediate_size=160, num_key_value_heads=1)
    model, _ = load_for_chat(folder, bits=4, dtype="fp32")
    fast = {
        name.rpartition(".")[2]: layer.support_avx512bf16_for_cpu
        for name, layer in model.named_modules()
        if hasattr(layer, "support_avx512bf16_for_cpu")
    }
    assert fast == {
        "q_proj": True, "k_proj": True, "v_proj": True, "o_proj": True,
        "gate_proj": True, "up_proj": True, "down_proj": False,
    }  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("bits", [4, 8])
def test_any_width_trains(make_llama, repacking_cpu, batch, bits, gradients, relative_error):
    """Gradients are those of the dequantised model, in training too."""
    folder = make_llama(hidden_size=96, intermediate_size=160, num_key_value_heads=1)
    with torch.enable_grad():
        model = tuned(folder, bits)
        reference = adapter_gradients(dequantised(model), batch, gradients)
        ours = adapter_gradients(model, batch, gradients)
    assert relative_error(ours, reference) < (1e-5 if bits == 4 else 0.05)


def test_a_quantised_rwkv_is_the_same_after_a_sample(saved):
    """Its code divides weights while it generates, and packed ones are not numbers to divide."""
    sizes = {"hidden_size": 64, "attention_hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    folder = saved("rwkv", context_length=64, rescale_every=1, **sizes)
    ids = torch.arange(5, 25)[None]
    model = SupervisedFinetune(config(folder, 4), lora=LoraConfig(r=4)).train()
    before = model.llm(input_ids=ids).logits
    model.eval().llm(input_ids=ids)
    assert torch.equal(model.train().llm(input_ids=ids).logits, before)
