"""Memory that an update frees is there for the next one."""

import subprocess
import sys

import pytest
import torch

from xtuner.engine import heap
from xtuner.engine.heap import keep_freed_memory

PROGRAM = """
import resource, runpy, sys, torch

keep_freed_memory = runpy.run_path(sys.argv[1])["keep_freed_memory"]
kept = sys.argv[2] == "kept" and keep_freed_memory(torch.device("cpu"))

def update():
    return [torch.ones(2**20) for _ in range(10)]  # 40 MB, freed at once

update(), update()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
update()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_an_update_asks_the_system_for_no_page_again(monkeypatch):
    """10,000 pages without, next to none with it."""
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)

    def pages(word):
        command = [sys.executable, "-c", PROGRAM, heap.__file__, word]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        kept, number = done.stdout.split()
        return kept == "True", int(number)

    assert pages("left")[1] > 5_000
    kept, number = pages("kept")
    assert kept
    assert number < 1_000


def test_a_gpu_and_who_has_set_malloc_are_left_alone(monkeypatch):
    assert not keep_freed_memory(torch.device("cuda"))
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    assert not keep_freed_memory(torch.device("cpu"))
