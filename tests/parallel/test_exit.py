"""How a process of several ends."""

import os
import subprocess
import sys

import pytest

# A tensor that a thread of gloo still frees while Python ends.
LATE = """
import atexit, os, sys, threading, time
import torch
from xtuner import cli
from xtuner.parallel.world import connect_alone

begun = threading.Event()

class Late:
    def __del__(self):
        if threading.get_native_id() != os.getpid():
            begun.set()
        while begun.is_set():
            time.sleep(0.001)

def main():
    connect_alone()
    while not begun.is_set():
        tensor = torch.ones(3)
        tensor.late = Late()
        torch.distributed.all_reduce(tensor, async_op=True)
        del tensor
        begun.wait(0.2)
    atexit.register(print, "exit function")
    print("done")
    END

cli.main = main
cli.entry()
"""


@pytest.mark.parametrize(
    ("end", "code", "errors"),
    [
        ("return 0", 0, []),
        ("raise SystemExit(143)", 143, []),
        ("raise ValueError('debugged')", 1, ["[rank0]: ValueError: debugged"]),
    ],
)
def test_a_thread_of_gloo_that_is_late_does_not_kill_the_process(end, code, errors):
    """The exit code is that of the run, and what it has printed is there."""
    command = [sys.executable, "-c", LATE.replace("END", end)]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=60)
    assert (run.returncode, run.stdout) == (code, "done\nexit function\n")
    assert run.stderr.splitlines()[-1:] == errors
