"""One process writes a place at a time; what a killed one leaves blocks nobody."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from xtuner.errors import ConfigError
from xtuner.locks import locked, writing


def holder(path, *, forks=False):
    """A process that holds the lock of the folder `path`, and perhaps has a child of its own."""
    code = f"""
        import os, sys, time
        from pathlib import Path
        from xtuner.locks import writing
        with writing(Path({str(path)!r}), "the work dir", folder=True):
            child = os.fork() if {forks} else 0
            if child == 0:
                print("held", os.getpid(), flush=True)
            time.sleep(60)
    """
    words = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    _, child = process.stdout.readline().split()
    return process, int(child)


def end(process):
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_error_of_a_second_writer_names_the_first(tmp_path):
    process, _ = holder(tmp_path / "a")
    try:
        message = rf"the work dir .*a is in use by process {process.pid} on .+, since .+: wait for its end"
        with pytest.raises(ConfigError, match=message), writing(tmp_path / "a", "the work dir", folder=True):
            pass
    finally:
        end(process)


@pytest.mark.parametrize("forks", [False, True])
def test_what_a_killed_writer_leaves_blocks_nobody(tmp_path, forks):
    """Not even while a process lives that it has forked, as workers that load data do for some seconds."""
    process, child = holder(tmp_path, forks=forks)
    end(process)
    try:
        assert (tmp_path / ".lock").exists()
        with writing(tmp_path, "the work dir", folder=True):
            pass
    finally:
        if forks:
            os.kill(child, signal.SIGKILL)
    assert list(tmp_path.iterdir()) == []


def test_who_waits_goes_on_when_the_other_has_ended(tmp_path):
    """Also where the other has removed the file that was waited for."""
    code = f"""
        import time
        from pathlib import Path
        from xtuner.locks import locked
        with locked(Path({str(tmp_path / "x.lock")!r}), print):
            print("held", flush=True)
            time.sleep(0.5)
    """
    words = [sys.executable, "-c", textwrap.dedent(code)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    told = []
    start = time.monotonic()
    with locked(tmp_path / "x.lock", told.append):
        assert (tmp_path / "x.lock").exists()
        assert time.monotonic() - start < 20
    assert [word.split(" on ")[0] for word in told] == [f"process {process.pid}"]
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("what", ["link", "file", "below"])
def test_a_place_that_cannot_be_a_folder_is_named(tmp_path, what):
    """A link to nowhere, a file, a folder below one."""
    path = tmp_path / "place"
    if what == "link":
        path.symlink_to(tmp_path / "nowhere")
        reason = "place is a link to .*nowhere, which does not exist"
    else:
        path.write_text("")
        path = path / "a" / "b" if what == "below" else path
        reason = "place is not a folder"
    with (
        pytest.raises(ConfigError, match=f"^cannot write to the work dir .*: .*{reason}$"),
        writing(path, "the work dir", folder=True),
    ):
        pass


def test_a_file_system_without_locks_is_logged_and_used(tmp_path, monkeypatch, caplog):
    """NFS with no lock service answers ENOLCK."""
    import errno
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING, "xtuner"), writing(tmp_path / "a", "the work dir", folder=True):
        assert list((tmp_path / "a").iterdir()) == []
    assert "does not support file locks: whether another process writes there is not checked" in caplog.text


def test_what_another_users_killed_run_left_is_locked_without_being_written(tmp_path, monkeypatch):
    """It may not be opened for writing; the lock is the same."""
    (tmp_path / ".lock").write_text("process 1 on elsewhere")
    real = os.open

    def refuse(path, flags, *mode, **kwargs):
        if flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, *mode, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    with writing(tmp_path, "the work dir", folder=True):
        assert (tmp_path / ".lock").read_text() == "process 1 on elsewhere"
        with pytest.raises(ConfigError, match="is in use by"), writing(tmp_path, "the work dir", folder=True):
            pass
