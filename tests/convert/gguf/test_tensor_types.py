"""Which type each tensor of a GGUF file has: what llama.cpp's own tool gave tensors of the same names."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from xtuner import cli
from xtuner.convert.choices import GGUF_TYPES, K_QUANTS
from xtuner.convert.gguf import tensor_types

# Types that llama.cpp 0.5.0 wrote, by part: "Q6_K*2 Q4_K*8" are those of ten layers in order.
WRITTEN = json.loads((Path(__file__).parents[2] / "data" / "gguf_types.json").read_text())


def runs(types):
    """Types in order as `WRITTEN` has them."""
    found = []
    for name in types:
        if found and found[-1][0] == name:
            found[-1][1] += 1
        else:
            found.append([name, 1])
    return " ".join(f"{name}*{count}" for name, count in found)


@pytest.mark.parametrize("kind", K_QUANTS)
@pytest.mark.parametrize("case", WRITTEN)
def test_tensors_have_the_types_that_llama_cpp_gives_them(case, kind):
    """17 and 80 layers, a tied head, 8 and 4 experts, rows that are no multiple of 256 or of 32."""
    told = WRITTEN[case]
    model = tensor_types.Model(told["layers"], told["experts"], told["tied"])
    for part, wanted in told["types"][kind].items():
        widths = told["widths"]
        shape = (256, widths.get(part, widths.get("", 256)))
        names = (
            [part]
            if part in ("output.weight", "token_embd.weight")
            else [f"blk.{layer}.{part}.weight" for layer in range(told["layers"])]
        )
        wide = shape if "gate_inp_shexp" not in part else (256,)
        assert runs(tensor_types.type_of(name, wide, kind, model) for name in names) == wanted, part


def test_vectors_and_routers_stay_in_fp32():
    model = tensor_types.Model(2, 4, is_tied=False)
    for kind in GGUF_TYPES:
        assert tensor_types.type_of("blk.0.attn_norm.weight", (256,), kind, model) == "F32"
        assert tensor_types.type_of("blk.0.ffn_gate_inp.weight", (4, 256), kind, model) == "F32"


def test_without_llama_cpp_the_error_names_the_package(llama_dir, tmp_path, monkeypatch, capsys):
    """The type may be in capitals, as llama.cpp writes it."""
    pytest.importorskip("gguf", reason="xtuner[gguf] is not installed")
    monkeypatch.setattr(tensor_types, "_PACKAGES", ())
    tensor_types.quantiser.cache_clear()
    code = cli.main(["convert", "gguf", str(llama_dir), str(tmp_path / "x.gguf"), "--type", "Q4_K_M"])
    assert code == 1
    message = f"by the package xllamacpp: {sys.executable} -m pip install 'xllamacpp>="
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
