"""The next update reuses the memory that an update frees."""

import subprocess
import sys

import pytest
import torch

from xtuner.engine import malloc
from xtuner.engine.malloc import keep_freed_memory

PROGRAM = """
import ctypes, os, resource, runpy, sys, torch

keep_freed_memory = runpy.run_path(sys.argv[1])["keep_freed_memory"]
# The setting is of a process.
child = os.fork()
if child:
    os.waitpid(child, 0)
kept = bool(child) and keep_freed_memory(torch.device("cpu"))
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
SIZE = 24 * 2**20

def pages_of_an_update():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [libc.malloc(SIZE) for _ in range(4)]
    for block in blocks:
        ctypes.memset(block, 1, SIZE)
    for block in reversed(blocks):
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(kept, sum([pages_of_an_update() for _ in range(8)][3:]), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_an_update_allocates_no_pages_again(monkeypatch):
    """After the first updates: 24,000 page faults per update without the setting, almost none with it."""
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    command = [sys.executable, "-c", PROGRAM, malloc.__file__]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    left, kept = (line.split() for line in done.stdout.splitlines())
    assert (left[0], kept[0]) == ("False", "True")
    assert int(kept[1]) < int(left[1]) / 4


def test_runs_on_a_gpu_and_malloc_settings_of_the_user_are_unchanged(monkeypatch):
    assert not keep_freed_memory(torch.device("cuda"))
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    assert not keep_freed_memory(torch.device("cpu"))
