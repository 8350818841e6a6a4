"""Checkpoints that are folders: ours, and those of DeepSpeed itself."""

import runpy
import sys

import pytest
import torch

from xtuner.engine.checkpoints.files import (
    OPTIMIZER_FILES,
    clear_unfinished,
    find_fault,
    find_last,
    load_checkpoint,
    remove_checkpoint,
    save_checkpoint,
)
from xtuner.errors import CheckpointError

STATE = {"state_dict": {"llm.w": torch.ones(3)}, "meta": {"iter": 2}, "optimizer": {"m": torch.zeros(3)}}


@pytest.fixture
def saved(tmp_path):
    """`iter_2.pth`, a folder."""
    path = tmp_path / "iter_2.pth"
    save_checkpoint(STATE, path, OPTIMIZER_FILES[0])
    return path


def test_a_folder_reads_as_what_was_saved(saved):
    assert load_checkpoint(saved, check=True)["optimizer"]["m"].tolist() == [0, 0, 0]
    assert find_last(saved.parent) == saved


def test_saving_again_replaces_the_folder(saved):
    save_checkpoint({**STATE, "meta": {"iter": 3}}, saved, OPTIMIZER_FILES[0])
    assert load_checkpoint(saved)["meta"] == {"iter": 3}
    assert [p.name for p in saved.parent.glob(".*")] == []


def test_without_optimizer_it_is_a_file(tmp_path):
    save_checkpoint({"state_dict": {}}, tmp_path / "iter_2.pth", OPTIMIZER_FILES[0])
    assert (tmp_path / "iter_2.pth").is_file()


@pytest.mark.parametrize("name", ["mp_rank_00_model_states.pt", OPTIMIZER_FILES[0]])
def test_a_damaged_file_damages_the_folder(saved, name):
    data = (saved / name).read_bytes()
    (saved / name).write_bytes(data[:-100])
    assert find_fault(saved)


def test_a_folder_that_was_moved_aside_when_a_run_was_killed_comes_back(saved):
    """Where its replacement had not got its name yet."""
    saved.rename(saved.with_name(f".{saved.name}.old"))
    clear_unfinished(saved.parent)
    assert load_checkpoint(saved)["meta"] == {"iter": 2}
    assert [p.name for p in saved.parent.glob(".*")] == []


def test_a_removed_folder_is_gone(saved):
    remove_checkpoint(saved)
    assert not saved.exists()


def test_the_script_beside_it_makes_plain_weights(saved, tmp_path, monkeypatch, capsys):
    out = tmp_path / "weights.bin"
    monkeypatch.setattr(sys, "argv", ["zero_to_fp32.py", str(saved), str(out)])
    runpy.run_path(str(saved.parent / "zero_to_fp32.py"))
    assert "1 weights in" in capsys.readouterr().out
    assert load_checkpoint(out)["state_dict"]["llm.w"].tolist() == [1, 1, 1]


def test_weights_in_a_folder_of_deepspeed_itself(tmp_path):
    """Its optimiser states hold objects, which are not loaded."""
    folder = tmp_path / "iter_2.pth"
    folder.mkdir()
    torch.save({"module": {"llm.w": torch.ones(2)}, "ds_config": {}}, folder / "mp_rank_00_model_states.pt")
    torch.save({"optimizer_state_dict": object}, folder / OPTIMIZER_FILES[0])
    assert load_checkpoint(folder)["state_dict"]["llm.w"].tolist() == [1, 1]


def test_parts_of_weights_are_refused_with_a_cure(tmp_path):
    (tmp_path / "zero_pp_rank_0_mp_rank_00_model_states.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"make one file of them with the zero_to_fp32\.py beside it"):
        load_checkpoint(tmp_path)
