"""Processes that are killed with -9: before the n-th change of the disk, or once something is so."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_KILL = """
import os, signal, sys

def kill_at(event, args, count=[0]):
    if event in {events!r}:
        count[0] += 1
        if count[0] == {at}:
            os.kill(os.getpid(), signal.SIGKILL)
"""
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "shutil.rmtree")


def run(code: str, *words: object, at: int, events: tuple[str, ...] = CHANGES) -> bool:
    """Whether Python ran `code` to its end; from `sys.addaudithook(kill_at)` on it may be killed."""
    script = _KILL.format(events=events, at=at) + code
    code_of_exit = subprocess.run([sys.executable, "-c", script, *map(str, words)]).returncode
    assert code_of_exit in (0, -signal.SIGKILL)
    return code_of_exit == 0


def kill_when(is_so: Callable[[], bool], *words: object, cwd: str | Path = ".") -> None:
    """Start a command of XTuner and kill it without warning as soon as `is_so`."""
    command = [sys.executable, "-m", "xtuner", *map(str, words)]
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not is_so() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the command ended before it could be killed"
