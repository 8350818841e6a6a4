"""The folder a conversion writes is complete or absent."""

import errno
import shutil
from collections import namedtuple

import pytest

from tests import killed
from xtuner.convert import output
from xtuner.convert.output import new_folder, on_the_way
from xtuner.errors import CheckpointError, ConfigError


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def fill(target, error):
    with new_folder(target) as folder:
        (folder / "config.json").write_text("new")
        raise error


def test_a_new_folder_appears_at_the_end(tmp_path):
    """The target does not exist until the block has ended."""
    target = tmp_path / "deep" / "out"
    with new_folder(target) as folder:
        (folder / "config.json").write_text("{}")
        assert not target.exists()
    assert names(tmp_path / "deep") == ["out"]
    assert names(target) == ["config.json"]


def test_a_failure_leaves_nothing(tmp_path):
    """An error in the block leaves neither the target nor the folder beside it."""
    with pytest.raises(KeyError):
        fill(tmp_path / "out", KeyError("x"))
    assert names(tmp_path) == []


def test_an_earlier_conversion_is_replaced_and_named(tmp_path, caplog):
    """A model folder is replaced as a whole, hidden files are kept, and the log names the removed files."""
    target = tmp_path / "out"
    target.mkdir()
    for name in ("adapter_config.json", "adapter_model.bin", ".gitattributes"):
        (target / name).write_text("old")
    with new_folder(target) as folder:
        (folder / "config.json").write_text("new")
    assert names(target) == [".gitattributes", "config.json"]
    assert "adapter_config.json, adapter_model.bin replaced" in caplog.text


@pytest.mark.parametrize("kept", [(), ("config.json", "model.safetensors")], ids=["adapters", "whole"])
def test_the_parts_of_a_llava_are_replaced(kept, tmp_path):
    """Their folders are those of a conversion, with or without the language model beside them."""
    parts = ("llm_adapter/adapter_config.json", "visual_encoder/config.json", "projector/config.json")
    for name in (*parts, "xtuner_config.py", *kept):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("old")
    with new_folder(tmp_path / "out") as folder:
        (folder / "config.json").write_text("new")
    assert names(tmp_path / "out") == ["config.json"]


def test_what_the_output_is_made_of_does_not_stay(tmp_path):
    """It is in the folder that is written: a failure, or the conversion after a kill, removes it too."""
    with new_folder(tmp_path / "out") as folder, on_the_way(folder) as parts:
        (parts / "a.bin").write_text("")
        (folder / "config.json").write_text("new")
        assert names(tmp_path) == [".out.lock", ".out.part"]
    assert names(tmp_path / "out") == ["config.json"]


CONVERT = """
from pathlib import Path
from xtuner.convert import output

path, stays = Path(sys.argv[1]), sys.argv[2] == "True"
output._must_stay = lambda path: stays

with output.new_folder(path) as folder:
    for name in ("config.json", "new.bin"):
        (folder / name).write_text("new")
    sys.addaudithook(kill_at)
"""
OLD = {"config.json": "old", "old.bin": "old", ".gitattributes": "mine"}
NEW = {"config.json": "new", "new.bin": "new", ".gitattributes": "mine"}


@pytest.mark.parametrize("stays", [False, True], ids=["replaced", "mounted"])
def test_a_kill_at_any_step_keeps_the_old_or_the_new(stays, tmp_path, monkeypatch):
    """Hidden files too; in a folder that cannot be replaced itself, the next conversion puts it right."""
    target = tmp_path / "out"
    monkeypatch.setattr(output, "_must_stay", lambda path: stays)
    seen = []
    for at in range(1, 40):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for name, text in OLD.items():
            (target / name).write_text(text)
        is_done = killed.run(CONVERT, target, stays, at=at)
        if stays:
            with pytest.raises(KeyError):
                fill(target, KeyError("the next conversion, which ends at once"))
        seen.append({file.name: file.read_text() for file in target.iterdir()})
        assert seen[-1] in (OLD, NEW)
        if is_done:
            break
    assert seen.count(OLD) >= 1
    assert seen.count(NEW) >= 2


def test_the_current_folder_is_filled_in_place(tmp_path, monkeypatch):
    """The current folder of a shell is not replaced."""
    monkeypatch.chdir(tmp_path)
    before = tmp_path.stat().st_ino
    with new_folder(".") as folder:
        (folder / "config.json").write_text("{}")
    assert names(tmp_path) == ["config.json"]
    assert tmp_path.stat().st_ino == before


def test_two_conversions_do_not_write_one_folder(tmp_path):
    """The second is refused; the first is not affected."""
    with new_folder(tmp_path / "out") as folder:
        (folder / "config.json").write_text("first")
        with (
            pytest.raises(ConfigError, match=r"the output .*out is in use by process"),
            new_folder(tmp_path / "out"),
        ):
            pass
    assert (tmp_path / "out" / "config.json").read_text() == "first"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize(
    "files",
    [
        ["notes.txt"],
        ["config.json", "thesis.docx"],
        ["config.json", "data/"],
        ["config.json", "projector/thesis.docx"],
        ["config.json", "projector/old/"],
    ],
)
def test_a_foreign_folder_is_refused(tmp_path, files):
    """Only folders that a conversion wrote are overwritten."""
    for name in files:
        path = tmp_path / "out" / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_text("mine")
    with pytest.raises(ConfigError, match="which no conversion wrote"), new_folder(tmp_path / "out"):
        raise AssertionError("the block must not run")
    assert names(tmp_path / "out") == sorted(name.split("/")[0] for name in files)


def test_the_source_cannot_be_the_target(tmp_path):
    """A folder that is read cannot be the output."""
    with pytest.raises(ConfigError, match="cannot be its output"), new_folder(tmp_path, sources=(tmp_path,)):
        pass


def test_too_little_space_is_an_error_before_writing(tmp_path, monkeypatch):
    """Free space is checked first."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(output.shutil, "disk_usage", lambda path: usage(100, 90, 10))
    with pytest.raises(CheckpointError, match="the disk is full"), new_folder(tmp_path / "out", num_bytes=11):
        raise AssertionError("the block must not run")
    assert names(tmp_path) == []


def test_a_disk_that_fills_up_leaves_nothing(tmp_path):
    """A write that fails half way is one clear error, and the earlier folder stays."""
    target = tmp_path / "out"
    target.mkdir()
    (target / "config.json").write_text("old")
    with pytest.raises(CheckpointError, match="the disk is full"):
        fill(target, OSError(errno.ENOSPC, "No space left on device"))
    assert names(tmp_path) == ["out"]
    assert (target / "config.json").read_text() == "old"


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    """A file is in the path of the folder."""
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"cannot write to the output .*file/out: .*file is not a folder"),
        new_folder(tmp_path / "file" / "out"),
    ):
        pass
