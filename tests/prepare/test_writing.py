"""A file is complete or absent, and several appear together."""

import errno
import os

import pytest

from xtuner.errors import ConfigError, DataError
from xtuner.prepare.writing import LeftOut, check_target, new_rows


def test_a_failure_leaves_what_was_there(tmp_path):
    (tmp_path / "a.jsonl").write_text("old")

    def stop():
        with new_rows(tmp_path / "a.jsonl", tmp_path / "b.jsonl") as writers:
            for writer in writers:
                writer.write({"n": 1})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.jsonl": "old"}


def test_a_full_disk_is_one_clear_line(tmp_path, monkeypatch):
    """It shows when the second file goes to the disk; then neither is there."""
    calls = []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with (
        pytest.raises(DataError, match=r"b.jsonl cannot be written: No space left on device"),
        new_rows(tmp_path / "a.jsonl", tmp_path / "b.jsonl"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_rows_as_lines_and_as_a_list(tmp_path):
    with new_rows(tmp_path / "a.jsonl", tmp_path / "b.json", tmp_path / "c.json") as (lines, rows, empty):
        for number in (1, 2):
            lines.write({"t": "你", "n": number})
            rows.write({"n": number})
        assert (lines.count, empty.count) == (2, 0)
    assert (tmp_path / "a.jsonl").read_text("utf-8") == '{"t": "你", "n": 1}\n{"t": "你", "n": 2}\n'
    assert (tmp_path / "b.json").read_text() == '[\n{"n": 1},\n{"n": 2}\n]\n'
    assert (tmp_path / "c.json").read_text() == "[]\n"


def test_a_folder_is_no_target(tmp_path):
    with pytest.raises(ConfigError, match="is a folder: name a file"):
        check_target(tmp_path, (), force=True)


def test_of_many_left_out_three_are_named():
    left_out = LeftOut()
    for number in range(1, 6):
        left_out.add("empty", f"line {number}")
    assert str(left_out) == "left out 5: empty (line 1, line 2, line 3, ...)"


def test_two_processes_do_not_write_one_file(tmp_path):
    with new_rows(tmp_path / "a.jsonl") as (writer,):
        writer.write({"n": 1})
        with (
            pytest.raises(ConfigError, match=r"the output .*a.jsonl is in use by process"),
            new_rows(tmp_path / "b.jsonl", tmp_path / "a.jsonl"),
        ):
            pass
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.jsonl": '{"n": 1}\n'}
