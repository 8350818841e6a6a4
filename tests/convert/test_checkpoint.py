"""A checkpoint in its other form holds the same."""

import itertools

import pytest
import torch

from xtuner.cli import main
from xtuner.convert.checkpoint import convert_checkpoint
from xtuner.convert.pth_to_hf import pth_to_hf
from xtuner.engine.checkpoints.files import find_fault, load_checkpoint, save_checkpoint
from xtuner.errors import ConfigError

TIED = torch.randn(5, 3)
STATE = {
    "meta": {"iter": 3, "hf_files": {"a.json": "{}", "b.bin": torch.arange(3, dtype=torch.uint8)}},
    "state_dict": {"llm.embed": TIED, "llm.head": TIED, "llm.w": torch.randn(4).bfloat16()},
    "optimizer": {
        "optimizer": {
            "state": {0: {"step": torch.tensor(2.0), "exp_avg": torch.randn(5, 3)}},
            "param_groups": [{"lr": 1e-3, "params": [0]}],
        }
    },
    "resume": {"rng": {"torch": torch.arange(9, dtype=torch.uint8)}, "iter": 3},
}


@pytest.fixture
def forms(tmp_path):
    """One file, sharded, one file again."""
    paths = [tmp_path / f"iter_{n}.pth" for n in (1, 2, 3)]
    save_checkpoint(STATE, paths[0])
    for (source, target), sharded in zip(itertools.pairwise(paths), (True, False), strict=True):
        convert_checkpoint(source, target, sharded=sharded)
    return paths


def test_there_and_back_is_the_same(forms):
    """With tied weights tied; nothing is left beside it."""
    single, sharded, again = forms
    assert [single.is_file(), sharded.is_dir(), again.is_file()] == [True, True, True]
    for path in forms:
        assert find_fault(path) is None
        found = load_checkpoint(path)
        weights = found["state_dict"]
        assert str({k: v for k, v in found.items() if k != "sharded"}) == str(STATE)
        assert weights["llm.embed"].data_ptr() == weights["llm.head"].data_ptr()
    assert again.stat().st_size < single.stat().st_size + 100
    assert [p.name for p in single.parent.glob(".iter*") if not p.name.endswith(".lock")] == []


def test_what_is_there_is_not_replaced(forms):
    with pytest.raises(ConfigError, match=r"iter_1\.pth exists: remove it, or name another"):
        convert_checkpoint(forms[1], forms[0])


def test_the_form_is_asked_for_never_guessed(forms, tmp_path, capsys):
    """One file, unless --sharded is given; a checkpoint that has the form already is not written again."""
    single, sharded, _ = map(str, forms)
    out = str(tmp_path / "one.pth")
    assert main(["convert", "checkpoint", single, out]) == 1
    assert f"{single} is one file already: copy it, or add --sharded" in capsys.readouterr().err
    assert main(["convert", "checkpoint", sharded, out, "--sharded"]) == 1
    assert f"{sharded} is sharded already: copy it, or leave out --sharded" in capsys.readouterr().err
    assert not (tmp_path / "one.pth").exists()
    assert main(["convert", "checkpoint", sharded, out]) == 0
    assert capsys.readouterr().out == f"All done! {out} is one file.\n"
    assert (tmp_path / "one.pth").is_file()


def test_a_sharded_checkpoint_becomes_the_same_model_folder(
    tmp_path, llama_dir, write_config, save_checkpoint, run_state
):
    from transformers import AutoModelForCausalLM

    from tests.convert.test_pth_to_hf import hf_files_of

    model = AutoModelForCausalLM.from_pretrained(llama_dir)
    single = save_checkpoint(run_state(model), hf_files_of(llama_dir))
    convert_checkpoint(single, tmp_path / "iter_9.pth", sharded=True)
    for name, path in {"a": single, "b": tmp_path / "iter_9.pth"}.items():
        pth_to_hf(write_config(), path, tmp_path / name)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == sorted(p.name for p in (tmp_path / "b").iterdir())
    assert "model.safetensors" in files
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in files)
