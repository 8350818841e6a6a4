"""A file or folder is the old one or the new one, whenever the process that writes it is killed."""

import os

import pytest

from tests import killed
from xtuner import atomic

WRITE = """
from pathlib import Path
from xtuner import atomic

path, kind, exchanges = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "True"
if not exchanges:
    atomic._exchange = lambda first, second: False

def write(part):
    if kind == "file":
        part.write_text("new")
    else:
        part.mkdir()
        for name in ("a", "b"):
            (part / name).write_text("new")

sys.addaudithook(kill_at)
with atomic.written(path) as part:
    write(part)
"""


def content(path):
    if path.is_dir():
        return {file.name: file.read_text() for file in path.iterdir()}
    return path.read_text() if path.exists() else None


@pytest.mark.parametrize(
    ("kind", "exchanges"),
    [("file", True), ("folder", True), ("folder", False)],
    ids=["file", "folder", "nfs"],
)
def test_a_kill_at_any_step_loses_nothing(kind, exchanges, tmp_path):
    """Before each call that changes the disk; where folders cannot be exchanged, `restore` helps."""
    path = tmp_path / "out"
    old, new = ("old", "new") if kind == "file" else ({"a": "old", "c": "old"}, {"a": "new", "b": "new"})
    seen = []
    for at in range(1, 40):
        if not path.exists():
            if kind == "file":
                path.write_text("old")
            else:
                path.mkdir()
                for name in old:
                    (path / name).write_text("old")
        is_done = killed.run(WRITE, path, kind, exchanges, at=at, events=(*killed.CHANGES, "open"))
        if not exchanges:
            atomic.restore(path)
        seen.append(content(path))
        assert seen[-1] in (old, new)
        if is_done:
            break
        atomic.remove(path)
    assert is_done
    assert seen[-1] == new
    assert seen.count(old) > 3
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_error_leaves_the_old_one(tmp_path):
    """And nothing beside it."""
    path = tmp_path / "out"
    path.mkdir()
    (path / "a").write_text("old")
    with pytest.raises(FileNotFoundError), atomic.written(path) as part:
        (part / "a").write_text("new")
    assert content(path) == {"a": "old"}
    assert os.listdir(tmp_path) == ["out"]


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    """What it leads to is replaced."""
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to("real")
    with atomic.written(tmp_path / "out") as part:
        part.mkdir()
        (part / "a").write_text("new")
    assert (tmp_path / "out").is_symlink()
    assert content(tmp_path / "real") == {"a": "new"}


def test_several_may_write_the_same_file(tmp_path):
    """Each under a name of its own; the last one stays."""
    path = tmp_path / "out"
    with atomic.written(path, shared=True) as one, atomic.written(path, shared=True) as other:
        one.write_text("one")
        other.write_text("other")
    assert content(path) == "one"
    assert os.listdir(tmp_path) == ["out"]
