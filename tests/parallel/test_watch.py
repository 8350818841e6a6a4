"""A process that is lost on another machine ends the others, which say its name."""

import subprocess
import sys

import pytest

# Plain sockets: neither torch nor a launcher. Each prints a line when it has joined.
FIRST = """
import sys, time
from xtuner.parallel import watch
watch.GRACE_SECONDS = 0.1
here = watch.Watch(0, 3)
print(here.listen(), flush=True)
sys.stdin.readline()
{end}
"""
OTHER = """
import sys, time
from xtuner.parallel import watch
watch.GRACE_SECONDS = 0.1
here = watch.Watch({rank}, 3)
here.join("127.0.0.1", {port})
print("joined", flush=True)
sys.stdin.readline()
here.leave()
"""


class Process(subprocess.Popen):
    """A Python process whose output is at hand."""

    def __init__(self, code):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        super().__init__([sys.executable, "-c", code], text=True, **pipes)

    def go_on(self):
        self.stdin.write("\n")
        self.stdin.flush()


@pytest.fixture
def three():
    """Ranks 0, 1, 2, joined; rank 0 leaves when told to."""
    first = Process(FIRST.format(end="here.leave()"))
    port = first.stdout.readline().strip()
    processes = [first, *(Process(OTHER.format(rank=rank, port=port)) for rank in (1, 2))]
    for process in processes[1:]:
        assert process.stdout.readline() == "joined\n"
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def ends(process):
    # communicate() would close stdin, which they take as word to go on.
    code = process.wait(timeout=20)
    return code, process.stderr.read()


def test_a_lost_process_is_named_by_all(three):
    three[2].kill()
    code, said = ends(three[0])
    assert (code, said.startswith("xtuner: error: rank 0: rank 2 on ")) == (1, True)
    code, said = ends(three[1])
    assert (code, said.startswith("xtuner: error: rank 1: rank 2 on ")) == (1, True)
    assert said.endswith(" is lost; this process ends\n")


def test_a_lost_rank_0_is_noticed_by_the_others(three):
    three[0].kill()
    assert [ends(p) for p in three[1:]] == [
        (1, f"xtuner: error: rank {rank}: rank 0 is lost; this process ends\n") for rank in (1, 2)
    ]


def test_who_takes_leave_is_not_missed(three):
    for process in (three[1], three[2], three[0]):
        process.go_on()
        assert ends(process) == (0, "")
