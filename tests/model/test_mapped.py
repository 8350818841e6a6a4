"""Weights stay in their files until they are divided among processes, if their format allows it."""

import pytest
import torch

from xtuner.model.loading import load_llm
from xtuner.model.mapped import wanted_dtype, weights_in_files


@pytest.fixture
def save(tmp_path, tokenizer):
    """A function from (config class, model class, ...) to a folder with such a model in bf16."""

    def make(config_class, model_class, *, as_bin=False, change=None, **settings):
        torch.manual_seed(0)
        small = {"hidden_size": 32, "intermediate_size": 66, "num_hidden_layers": 1, "head_dim": 8}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": len(tokenizer)}
        model = model_class(config_class(**small, **heads, **settings)).to(torch.bfloat16)
        if change:
            change(model)
        model.config.save_pretrained(tmp_path)
        if as_bin:
            torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        else:
            model.save_pretrained(tmp_path)
        return tmp_path

    return make


def _mapped_from(folder):
    """Ranges of addresses that are mapped to the files of a folder."""
    with open("/proc/self/maps") as maps:
        named = [line.split() for line in maps if str(folder) in line]
    return [tuple(int(end, 16) for end in words[0].split("-")) for words in named]


def _load(folder, dtype, full=True, **more):
    from transformers import AutoModelForCausalLM

    cfg = {
        "type": AutoModelForCausalLM.from_pretrained,
        "pretrained_model_name_or_path": str(folder),
        "torch_dtype": dtype,
    }
    return load_llm(cfg, full=full, **more)


def test_weights_stay_in_their_files(save, caplog):
    """Full fine-tuning in fp32 of files in bf16: no weight is read, each is marked to become fp32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = save(LlamaConfig, LlamaForCausalLM, tie_word_embeddings=True)
    whole = _load(folder, torch.float32)
    with weights_in_files():
        llm = _load(folder, torch.float32)
    ranges = _mapped_from(folder)
    for name, weight in llm.named_parameters():
        assert any(start <= weight.data_ptr() < end for start, end in ranges)
        assert (weight.dtype, wanted_dtype(weight)) == (torch.bfloat16, torch.float32)
        assert torch.equal(weight.float(), whole.get_parameter(name))
    assert llm.lm_head.weight is llm.model.embed_tokens.weight
    assert {n: b.tolist() for n, b in llm.named_buffers()} == {
        n: b.tolist() for n, b in whole.named_buffers()
    }
    assert llm.config.to_dict() == whole.config.to_dict()
    assert "whole" not in caplog.text


def test_rows_for_new_tokens_are_those_of_a_model_read_whole(save, tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = save(LlamaConfig, LlamaForCausalLM)
    tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer)
    tokenizer.add_tokens([f"<new_{n}>" for n in range(100)])
    whole = _load(folder, torch.float32, tokenizer=tokenizer)
    with weights_in_files():
        llm = _load(folder, torch.float32, tokenizer=tokenizer)
    for layer, expected in zip(
        (llm.get_input_embeddings(), llm.get_output_embeddings()),
        (whole.get_input_embeddings(), whole.get_output_embeddings()),
        strict=True,
    ):
        assert torch.equal(layer.weight, expected.weight)


def _widen_a_norm(model):
    model.model.norm.float()


@pytest.mark.parametrize(
    ("made", "dtype", "reason"),
    [
        ({"as_bin": True}, torch.float32, "not all of its weights are safetensors of one precision"),
        ({"change": _widen_a_norm}, torch.float32, "not all of its weights are safetensors of one precision"),
        (
            {"change": torch.nn.Module.float},
            torch.bfloat16,
            "its files hold torch.float32 and torch.bfloat16",
        ),
        ({"family": "Gemma"}, torch.float32, "its constants depend on the precision"),
    ],
)
def test_other_models_are_read_whole(made, dtype, reason, save, caplog, monkeypatch):
    """A model has the same weights in either case, and the reason is logged."""
    import transformers

    monkeypatch.setattr("xtuner.model.loading.cpu_computes_in_bf16", lambda: True)
    family = made.pop("family", "Llama")
    classes = (getattr(transformers, f"{family}{part}") for part in ("Config", "ForCausalLM"))
    folder = save(*classes, **made)
    whole = _load(folder, dtype)
    assert "Each process reads" not in caplog.text
    with weights_in_files():
        llm = _load(folder, dtype)
    assert f"Each process reads {folder} whole before it keeps its part: {reason}" in caplog.text
    found, expected = ({**dict(m.named_parameters()), **dict(m.named_buffers())} for m in (llm, whole))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n], expected[n]) and found[n].dtype == expected[n].dtype for n in expected)
