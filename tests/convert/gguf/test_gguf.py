"""GGUF files hold the model: transformers' reader gives the folder's logits."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

gguf = pytest.importorskip("gguf", reason="xtuner[gguf] is not installed")

from tests import seeing
from xtuner import cli
from xtuner.convert.gguf import to_gguf
from xtuner.convert.gguf.check import compare
from xtuner.errors import ModelError
from xtuner.model.internlm2 import InternLM2Config
from xtuner.model.loading import register_families

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}


@pytest.fixture
def make_model(tmp_path, tokenizer):
    """A folder with a small model of a family, every weight random, biases too."""

    def make(config_class, **more):
        register_families()
        torch.manual_seed(0)
        size = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
        ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, "max_position_embeddings": 128}
        config = config_class(vocab_size=416, num_key_value_heads=2, **size, **ends, **more)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            parameter.data.normal_(0, 0.2)
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return make


def logits(folder, **more):
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **more).eval()
        return model(torch.arange(5, 45)[None]).logits


CASES = [
    (LlamaConfig, {}),
    (LlamaConfig, {"tie_word_embeddings": True, "head_dim": 32}),
    (LlamaConfig, {"rope_parameters": LLAMA3}),
    (LlamaConfig, {"rope_parameters": LINEAR}),
    (LlamaConfig, {"rope_parameters": YARN}),
    (LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    (MistralConfig, {"sliding_window": None}),
    (Qwen2Config, {}),
    (Qwen3Config, {"head_dim": 32}),
    (InternLM2Config, {}),
    (Qwen2MoeConfig, {**EXPERTS, "shared_expert_intermediate_size": 32}),
    (Qwen3MoeConfig, {**EXPERTS, "head_dim": 32, "norm_topk_prob": True}),
]


@pytest.mark.parametrize(("config_class", "more"), CASES)
def test_the_file_gives_the_logits_of_the_folder(config_class, more, make_model, tmp_path):
    """f16 logits differ only by rounding."""
    folder = make_model(config_class, **more)
    path = to_gguf(folder, tmp_path / "out.gguf", check=False)
    assert compare(folder, path, "f16") < 2e-3 * logits(folder).abs().max()
    if config_class in (LlamaConfig, Qwen2Config) and not {"rope_parameters", "head_dim", "mlp_bias"} & set(
        more
    ):
        torch.testing.assert_close(logits(tmp_path, gguf_file=path.name), logits(folder), atol=0.02, rtol=0)


def test_q8_0_is_close_and_smaller(make_model, tmp_path):
    """Eight bits in blocks of 32 change the logits slightly; the check measures the difference."""
    folder = make_model(LlamaConfig)
    half, small = tmp_path / "half.gguf", tmp_path / "small.gguf"
    assert cli.main(["convert", "gguf", str(folder), str(half), "--no-check"]) == 0
    assert cli.main(["convert", "gguf", str(folder), str(small), "--type", "q8_0"]) == 0
    assert small.stat().st_size < 0.75 * half.stat().st_size
    difference = compare(folder, small, "q8_0")
    assert compare(folder, half, "f16") < difference < 0.1 * logits(folder).abs().max()
    with pytest.raises(ModelError, match=r"does not equal .*; rms_norm_eps is 1\.0 in its config\.json and"):
        compare(make_model(LlamaConfig, rms_norm_eps=1.0), half, "f16")
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(small).tensors}
    assert types["blk.0.attn_q.weight"] == "Q8_0"
    assert types["output_norm.weight"] == "F32"


def test_metadata(make_model, tmp_path, tokenizer):
    """Shape, rotation and tokenizer are written; tokens the tokenizer lacks are marked unused."""
    folder = make_model(LlamaConfig, rope_parameters=LLAMA3)
    reader = gguf.GGUFReader(to_gguf(folder, tmp_path, check=False))
    value = {name: field.contents() for name, field in reader.fields.items()}
    assert value["general.architecture"] == "llama"
    assert value["llama.attention.head_count_kv"] == 2
    assert value["llama.rope.freq_base"] == 5e5
    assert value["tokenizer.ggml.model"] == "gpt2"
    assert value["tokenizer.ggml.eos_token_id"] == 2
    tokens = value["tokenizer.ggml.tokens"]
    assert tokens[: len(tokenizer)] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert (len(tokens), tokens[-1]) == (416, "[PAD415]")
    assert value["tokenizer.ggml.token_type"][4] == gguf.TokenType.CONTROL
    factors = next(t.data for t in reader.tensors if t.name == "rope_freqs.weight")
    assert factors[0] == 1
    assert factors[-1] == pytest.approx(8)


@pytest.mark.parametrize(
    ("config_class", "more"),
    [
        (MistralConfig, {}),
        (Qwen2Config, {"use_sliding_window": True, "max_window_layers": 1}),
        (Qwen3Config, {"use_sliding_window": True, "max_window_layers": 1}),
    ],
)
def test_an_omitted_window_is_logged(config_class, more, make_model, tmp_path, caplog):
    """llama.cpp's architecture has no window: file and folder agree up to its length."""
    folder = make_model(config_class, sliding_window=8, **more)
    path = to_gguf(folder, tmp_path / "out.gguf")
    assert path.is_file()
    told = [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and r.name == "xtuner"]
    assert told == [
        "llama.cpp attends to all tokens, not to the last 8: it answers as the folder up to 8 tokens"
    ]


def test_a_window_as_wide_as_the_context_is_not_logged(make_model, tmp_path, caplog):
    """Nor is a window that no layer uses."""
    to_gguf(make_model(MistralConfig, sliding_window=128), tmp_path / "out.gguf")
    unused = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}
    to_gguf(make_model(Qwen2Config, **unused), tmp_path / "out.gguf")
    assert "attends to all tokens" not in caplog.text


def test_yarn_is_written(make_model, tmp_path):
    """Factor and original positions are written; values other than llama.cpp's defaults are errors."""
    reader = gguf.GGUFReader(to_gguf(make_model(LlamaConfig, rope_parameters=YARN), tmp_path, check=False))
    value = {name: field.contents() for name, field in reader.fields.items()}
    scaling = {name.rpartition("scaling.")[2]: value[name] for name in value if ".rope.scaling." in name}
    assert scaling == {"type": "yarn", "factor": 4.0, "original_context_length": 32}


@pytest.mark.parametrize(
    ("config_class", "more", "message"),
    [
        (LlamaConfig, {"hidden_act": "gelu"}, "hidden_act = 'gelu' .*: llama.cpp's llama has silu"),
        (Qwen3Config, {"attention_bias": True}, "attention_bias = True .*: llama.cpp's qwen3 has no bias"),
        (LlamaConfig, {"rope_parameters": {**YARN, "beta_fast": 16}}, "beta_fast = 16 of the yarn scaling"),
        (LlamaConfig, {"rope_parameters": {**YARN, "truncate": False}}, "truncate = False of the yarn"),
        (
            LlamaConfig,
            {"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}},
            "mscale of the yarn scaling",
        ),
    ],
)
def test_a_setting_that_the_file_cannot_hold_is_an_error(config_class, more, message, make_model, tmp_path):
    """The error comes before anything is written."""
    with pytest.raises(ModelError, match=message):
        to_gguf(make_model(config_class, **more), tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_a_file_with_other_logits_is_removed_and_the_cause_named(make_model, tmp_path, monkeypatch):
    """The error names the settings that differ; an earlier file is kept."""
    folder = make_model(LlamaConfig)
    path = to_gguf(folder, tmp_path / "out.gguf")
    before = path.read_bytes()
    # As a family with a new setting would.
    monkeypatch.setattr(gguf.GGUFWriter, "add_layer_norm_rms_eps", lambda self, value: None)
    with pytest.raises(
        ModelError,
        match=r"logits differ by .* of .*; rms_norm_eps is 1\.0 in its config\.json and 1e-06 in the file$",
    ):
        to_gguf(make_model(LlamaConfig, rms_norm_eps=1.0), path)
    assert path.read_bytes() == before


def test_a_tokenizer_with_byte_fallback(make_model, tmp_path):
    """Scores are the ranks of merges, bytes are marked."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = make_model(LlamaConfig)
    words = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "a", "b", "ab", "▁ab"]
    vocabulary = {word: i for i, word in enumerate(words)}
    core = Tokenizer(
        models.BPE(
            vocabulary, [("a", "b"), ("▁", "ab")], unk_token="<unk>", byte_fallback=True, fuse_unk=True
        )
    )
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    reader = gguf.GGUFReader(to_gguf(folder, tmp_path / "x.gguf", check=False))
    value = {name: field.contents() for name, field in reader.fields.items()}
    assert value["tokenizer.ggml.model"] == "llama"
    assert value["tokenizer.ggml.scores"][vocabulary["ab"]] == 0
    assert value["tokenizer.ggml.scores"][vocabulary["▁ab"]] == -1
    assert value["tokenizer.ggml.token_type"][5] == gguf.TokenType.BYTE


def test_a_vision_language_model_is_refused(tokenizer, tmp_path):
    """Even if its language part is a Llama."""
    with pytest.raises(ModelError, match="is a model of the family 'llava'; GGUF files are written for"):
        to_gguf(seeing.save("llava", tmp_path / "llava", tokenizer), tmp_path / "x.gguf")


@pytest.mark.filterwarnings("ignore")
def test_models_that_cannot_be_written(make_model, tmp_path, capsys):
    """Another family, a wrong name, values too large: one line each, and no partial file."""
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=1)).save_pretrained(
        tmp_path / "gpt2"
    )
    assert cli.main(["convert", "gguf", str(tmp_path / "gpt2"), str(tmp_path / "x.gguf")]) == 1
    assert "is a model of the family 'gpt2'; GGUF files are written for internlm" in capsys.readouterr().err
    folder = make_model(LlamaConfig)
    assert cli.main(["convert", "gguf", str(folder), str(tmp_path / "x.bin")]) == 1
    assert "a file name that ends in .gguf" in capsys.readouterr().err
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = 1e6
    model.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"holds 1e\+06, more than f16 can hold: use --type q8_0"):
        to_gguf(folder, tmp_path / "x.gguf")
    assert not list(tmp_path.glob("*.gguf")) + list(tmp_path.glob(".*.part"))
