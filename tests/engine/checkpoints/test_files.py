"""Checkpoints are complete or absent."""

import os
import time

import pytest
import torch

from xtuner.engine.checkpoints.files import find_last, find_whole, load_checkpoint, save_checkpoint
from xtuner.errors import CheckpointError, NotFoundError

STATE = {"state_dict": {"w": torch.arange(4000.0)}, "meta": {"iter": 3, "hf_files": {"a": "b"}}}


@pytest.fixture
def two(tmp_path):
    for n in (1, 2):
        save_checkpoint(STATE, tmp_path / f"iter_{n}.pth")
        time.sleep(0.01)
    return tmp_path


def test_what_is_saved_comes_back(two):
    found = load_checkpoint(two / "iter_1.pth", check=True)
    assert found["meta"] == STATE["meta"]
    assert torch.equal(found["state_dict"]["w"], STATE["state_dict"]["w"])
    assert sorted(os.listdir(two)) == ["iter_1.pth", "iter_2.pth", "last_checkpoint"]


def test_the_newest_is_the_one_that_last_checkpoint_names(two):
    assert find_last(two) == two / "iter_2.pth"
    (two / "last_checkpoint").write_text("/moved/from/iter_1.pth")
    assert find_last(two) == two / "iter_1.pth"
    (two / "last_checkpoint").unlink()
    assert find_last(two) == two / "iter_2.pth"


def cut(path):
    path.write_bytes(path.read_bytes()[:5000])


def flip(path):
    data = bytearray(path.read_bytes())
    data[9000] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [cut, flip])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(two, harm, caplog):
    harm(two / "iter_2.pth")
    assert find_whole(two) == two / "iter_1.pth"
    assert "iter_2.pth is damaged" in caplog.text
    with pytest.raises(CheckpointError, match=r"iter_2\.pth is damaged"):
        load_checkpoint(two / "iter_2.pth", check=True)


def test_no_whole_checkpoint_is_an_error(two):
    cut(two / "iter_1.pth")
    cut(two / "iter_2.pth")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        find_whole(two)


def test_a_missing_checkpoint_names_the_newest_there_is(two):
    with pytest.raises(
        NotFoundError, match=r"no checkpoint '.*iter_9\.pth'; the newest there is .*iter_2\.pth"
    ):
        load_checkpoint(two / "iter_9.pth")


def test_a_file_that_is_no_checkpoint_is_an_error(tmp_path):
    (tmp_path / "x.pth").write_text("no")
    with pytest.raises(CheckpointError, match="cut off, or not a checkpoint"):
        load_checkpoint(tmp_path / "x.pth")
    torch.save({"a": 1}, tmp_path / "y.pth")
    with pytest.raises(CheckpointError, match="no 'state_dict'"):
        load_checkpoint(tmp_path / "y.pth")


def test_a_full_disk_leaves_the_checkpoint_before_it_whole(two):
    """The size limit of files makes every write beyond it fail as a full disk does."""
    import resource
    import signal

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(CheckpointError, match=r"cannot write .*iter_3\.pth.*iter_2\.pth is intact"):
            save_checkpoint(STATE, two / "iter_3.pth")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert sorted(os.listdir(two)) == ["iter_1.pth", "iter_2.pth", "last_checkpoint"]
    assert find_whole(two) == two / "iter_2.pth"
