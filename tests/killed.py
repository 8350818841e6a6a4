"""A process that is killed with -9 just before the n-th time that it changes the disk."""

import signal
import subprocess
import sys

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
