"""`xtuner convert quantize`: the nearest codes, one tensor at a time; whole folders or none."""

import json
import math

import pytest
import torch

from tests import seeing
from xtuner import cli
from xtuner.convert.quantised import compressed, quantize
from xtuner.convert.quantised.rounding import Scheme, packed, unpacked
from xtuner.convert.safetensors_stream import TensorInfo
from xtuner.convert.weights import Weights
from xtuner.errors import ConfigError, ModelError

SCHEMES = [
    Scheme("fp8"),
    Scheme("int8"),
    Scheme("w4a16", 32),
    Scheme("w4a16", 32, is_symmetric=False),
]
IDS = ["fp8", "int8", "w4a16", "asymmetric"]


def all_codes(scheme):
    if scheme.name == "fp8":
        codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
        return codes[codes.isfinite()]
    return torch.arange(-128.0, 128) if scheme.name == "int8" else torch.arange(-8.0, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
def test_each_weight_becomes_the_nearest_code_of_its_scale(scheme, dtype):
    """No other code of that scale is nearer, and the stored tensors have the types and shapes announced."""
    torch.manual_seed(0)
    weight = torch.randn(12, 64).mul(0.05).to(dtype)
    stored = scheme.round(weight)
    infos = scheme.infos(TensorInfo(dtype, (12, 64)))
    assert {name: TensorInfo(t.dtype, tuple(t.shape)) for name, t in stored.items()} == infos
    size = scheme.group_size or 64
    scale = stored["weight_scale"].float().unsqueeze(-1)
    zero = torch.zeros(())
    if not scheme.is_symmetric:
        zero = unpacked(stored["weight_zero_point"].T, 12).T.float().unsqueeze(-1)
    candidates = ((all_codes(scheme) - zero) * scale).unsqueeze(-2)  # [out, groups, 1, codes]
    wanted = (candidates - weight.float().unflatten(1, (-1, size)).unsqueeze(-1)).abs().amin(-1)
    found = (scheme.restored(stored) - weight.float()).unflatten(1, (-1, size)).abs()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
def test_rows_of_zeros_stay_zeros(scheme):
    stored = scheme.round(torch.zeros(8, 32))
    assert scheme.restored(stored).eq(0).all()


def test_packed_codes_are_in_words_from_the_lowest_bits():
    """Codes -8 to 7 are stored as 0 to 15; the rest of a last word is 0."""
    codes = torch.tensor([[-8, -7, 0, 7, 1, 2, 3, 7, -1]], dtype=torch.int8)
    words = packed(codes)
    assert [f"{word & 0xFFFFFFFF:08x}" for word in words[0].tolist()] == ["fba9f810", "00000007"]
    assert unpacked(words, 9).tolist() == codes.tolist()


def test_the_folder_holds_rounded_layers_and_the_rest_as_it_was(llama_dir, tmp_path, run):
    """Head, embedding and norms are copied; config.json says what is rounded and what is not."""
    run("convert", "quantize", llama_dir, tmp_path / "out", "--format", "fp8", "--no-check")
    before, after = Weights(llama_dir), Weights(tmp_path / "out")
    assert len(after) == len(before) + 14
    same = [name for name in before if after.infos.get(name) == before.infos[name]]
    assert all("norm" in name or name in ("model.embed_tokens.weight", "lm_head.weight") for name in same)
    assert all(torch.equal(before[name], after[name]) for name in same)
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["ignore"] == ["lm_head"]
    assert (config["quant_method"], config["format"]) == ("compressed-tensors", "float-quantized")
    group = config["config_groups"]["group_0"]
    assert (group["targets"], group["weights"]["strategy"]) == (["Linear"], "channel")
    assert group["input_activations"]["strategy"] == "token"
    assert "quantised" in (tmp_path / "out" / "README.md").read_text()
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_memory_holds_one_matrix(llama_dir, tmp_path, monkeypatch):
    """Of the tensors that wait to be written, none is a matrix."""
    kept = []
    load = compressed._Plan.__getitem__

    def watched(plan, name):
        tensor = load(plan, name)
        kept.extend(plan._ready)
        return tensor

    monkeypatch.setattr(compressed._Plan, "__getitem__", watched)
    for name in ("fp8", "w4a16"):
        quantize(llama_dir, tmp_path / name, name, check=False)
    assert {name.rpartition(".")[2] for name in kept} <= {"weight_scale", "weight_shape"}


def test_quality_is_measured_before_and_after(llama_dir, tmp_path, caplog):
    """The perplexity is that of transformers' own loss, over windows of the model's context."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    caplog.set_level("INFO", "xtuner")
    text = tmp_path / "text.txt"
    text.write_text("hello world, this is a text. " * 40)
    before, after = quantize(llama_dir, tmp_path / "out", "int8", text=text)
    tokenizer = AutoTokenizer.from_pretrained(llama_dir)
    model = AutoModelForCausalLM.from_pretrained(llama_dir, dtype=torch.float32).eval()
    ids = tokenizer(text.read_text(), add_special_tokens=False).input_ids
    assert len(ids) > 513
    windows = [torch.tensor([ids[i : i + 512]]) for i in range(0, len(ids), 512)]
    with torch.no_grad():
        sums = [(model(ids, labels=ids).loss * (ids.shape[1] - 1)).item() for ids in windows]
    wanted = sum(sums) / sum(ids.shape[1] - 1 for ids in windows)
    assert before.loss == pytest.approx(wanted, rel=1e-5)
    assert after.loss != before.loss
    assert after.loss == pytest.approx(before.loss, rel=0.05)
    assert f"{math.exp(before.loss):.4g} before, {math.exp(after.loss):.4g} after" in caplog.text


def test_a_group_size_that_divides_no_width_is_an_error(saved, tmp_path, caplog):
    """Without --group-size the largest of 128, 64, 32 is taken that divides every width."""
    caplog.set_level("INFO", "xtuner")
    folder = saved("llama", hidden_size=64, intermediate_size=96)
    with pytest.raises(ModelError, match="has 64 columns, no multiple of 128: --group-size 32"):
        quantize(folder, tmp_path / "out", "w4a16", group_size=128, check=False)
    quantize(folder, tmp_path / "out", "w4a16", check=False)
    assert "groups of 32 columns: some layers' width is no multiple of 128" in caplog.text
    odd = saved("llama", hidden_size=64, intermediate_size=100)
    with pytest.raises(ModelError, match="has 100 columns, no multiple of 32: --format fp8, --format int8"):
        quantize(odd, tmp_path / "odd", "w4a16", check=False)
    assert not (tmp_path / "odd").exists()
    with pytest.raises(ConfigError, match="--asymmetric is for --format w4a16: leave it out"):
        quantize(folder, tmp_path / "x", "fp8", symmetric=False)


def test_what_sees_stays_as_it_is(tokenizer, tmp_path):
    """Encoder and projector are in `ignore`, by their names in the model and in the files."""
    folder = seeing.save("qwen2_5_vl", tmp_path / "model", tokenizer)
    quantize(folder, tmp_path / "out", "fp8")
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert {"model.visual.blocks.0.attn.qkv", "lm_head"} <= set(config["ignore"])
    assert not any("language_model" in name for name in config["ignore"])
    rounded = [name for name in Weights(tmp_path / "out") if name.endswith("weight_scale")]
    assert len(rounded) == 14
    assert not any("visual" in name for name in rounded)


def test_what_cannot_be_rounded_is_one_line(adapter_dir, llama_dir, saved, tmp_path, capsys):
    """Adapters, experts, and folders that are quantised already; nothing is written."""
    experts = saved("qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
    quantize(llama_dir, tmp_path / "fp8", check=False)
    cases = {
        adapter_dir: "is an adapter: merge it first, with xtuner convert merge ",
        experts: "has experts (model.layers.0.mlp.experts), most of its weights, which cannot be written",
        tmp_path / "fp8": "are quantised already, by compressed-tensors",
    }
    for folder, message in cases.items():
        assert cli.main(["convert", "quantize", str(folder), str(tmp_path / "out")]) == 1
        assert message in capsys.readouterr().err
    assert cli.main(["convert", "quantize", str(llama_dir), str(tmp_path / "out"), "--text", "none.txt"]) == 1
    assert "there is no text file none.txt" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_interrupted_leaves_the_old_folder(llama_dir, tmp_path, monkeypatch):
    quantize(llama_dir, tmp_path / "out", "int8", check=False)
    old = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(compressed, "_compare", interrupt)
    with pytest.raises(KeyboardInterrupt):
        quantize(llama_dir, tmp_path / "out", "fp8")
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == old
    assert not list(tmp_path.glob(".*.part"))
