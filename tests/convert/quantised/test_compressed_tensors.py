"""Folders of `xtuner convert quantize` in the program they are for: transformers with compressed-tensors."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed: make quantised")

from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme, preset_name_to_scheme
from compressed_tensors.quantization.utils import calculate_qparams
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

from tests import seeing
from xtuner.convert.names import empty_model
from xtuner.convert.quality import logits_of_model, prompt_ids
from xtuner.convert.quantised import quantize
from xtuner.convert.quantised.rounding import Scheme

pytestmark = pytest.mark.filterwarnings("ignore")

PRESETS = {
    "FP8_DYNAMIC": Scheme("fp8"),
    "W8A8": Scheme("int8"),
    "W4A16": Scheme("w4a16", 128),
    "W4A16_ASYM": Scheme("w4a16", 128, is_symmetric=False),
}


def theirs(preset, weight):
    """What the package stores of a matrix that is rounded to the nearest code."""
    args = preset_name_to_scheme(preset, ["Linear"])
    groups = weight.unflatten(-1, (-1, args.weights.group_size or weight.shape[-1]))
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), args.weights)
    state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
    kind = {"F": "float-quantized", "W8A8": "int-quantized"}
    form = kind.get(preset[0]) or kind.get(preset, "pack-quantized")
    return BaseCompressor.get_value_from_registry(form).compress(state, args)


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_stored_is_the_packages_own_to_the_bit(preset):
    """Of weights in fp32."""
    torch.manual_seed(0)
    weight = torch.randn(24, 384)
    if PRESETS[preset].is_symmetric:  # else the package's zero point is undefined: 0 / 0
        weight[3] = 0
    ours, package = PRESETS[preset].round(weight), theirs(preset, weight)
    assert set(ours) == set(package)
    for name, tensor in ours.items():
        same = package[name]
        assert tensor.shape == same.shape, name
        assert tensor.to(same.dtype).view(torch.uint8).equal(same.view(torch.uint8)), name


@pytest.mark.parametrize("preset", PRESETS)
def test_weights_in_16_bit_are_nearer_than_the_packages(preset):
    """The package divides in bf16, which rounds twice."""
    torch.manual_seed(0)
    weight = torch.randn(64, 384).bfloat16()
    scheme = PRESETS[preset]
    ours, package = scheme.round(weight), theirs(preset, weight)
    errors = [(scheme.restored(stored) - weight.float()).square().sum().item() for stored in (ours, package)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_config_is_that_of_the_preset(preset):
    scheme = PRESETS[preset]
    group = scheme.config([])["config_groups"]["group_0"]
    read, wanted = QuantizationScheme(**group), preset_name_to_scheme(preset, ["Linear"])
    assert read.weights == wanted.weights
    assert read.input_activations == wanted.input_activations


@pytest.mark.parametrize("name", ["fp8", "int8", "w4a16"])
def test_transformers_computes_what_was_measured(name, llama_dir, tmp_path):
    """The logits of the folder that transformers loads are those that the command compared."""
    _, after = quantize(llama_dir, tmp_path / "out", name)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(prompt_ids(len(after.logits[0]))).logits[0]
    torch.testing.assert_close(logits, after.logits, rtol=0, atol=1e-5)


def test_asymmetric_folders_are_loaded_dequantised(llama_dir, tmp_path):
    """As they are they are an error of transformers 5.23, also those of llm-compressor."""
    _, after = quantize(llama_dir, tmp_path / "out", "w4a16", symmetric=False)
    whole = CompressedTensorsConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, quantization_config=whole
    ).eval()
    with torch.no_grad():
        logits = model(prompt_ids(len(after.logits[0]))).logits[0]
    torch.testing.assert_close(logits, after.logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava", "gemma3"])
def test_models_that_see_load_too(family, tokenizer, tmp_path):
    folder = seeing.save(family, tmp_path / "model", tokenizer)
    _, after = quantize(folder, tmp_path / "out", "int8")
    kind = type(empty_model(folder))
    model = kind.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.no_grad():
        logits = logits_of_model(model)(prompt_ids(len(after.logits[0])))
    torch.testing.assert_close(logits, after.logits, rtol=0, atol=1e-5)
