"""A signal while answers are sampled: the next token is the last, and the run goes on to the bit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end import test_rollouts
from tests.end_to_end.test_rollouts import CONFIG, FSDP, assert_equal, numbers, train, weights
from xtuner import cli

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
here = test_rollouts.here
# Sends a signal to its own process in the sixth forward pass of an update's sampling.
HOOK = """
import os
import signal
from pathlib import Path

from xtuner.engine.hooks.hook import Hook


class Stop(Hook):
    def __init__(self, at, name):
        self.at, self.number, self.count = at, getattr(signal, name), 0

    def before_fetch(self, runner):
        if runner.iter == self.at and runner.rank == 0 and not self.count:
            runner.model.llm.register_forward_pre_hook(self.note)

    def before_val_epoch(self, runner):
        if self.at == "validation" and not self.count:
            runner.model.llm.register_forward_pre_hook(self.note)

    def note(self, *_):
        self.count += 1
        Path("count").write_text(str(self.count))
        if self.count == 6:
            os.kill(os.getpid(), self.number)
"""
NUMBER = 6
# The reward of the twentieth answer, of the second update, comes with a signal.
RANDOM = """
import os
import random
import signal
from pathlib import Path

file = Path("stop_at")


def letters(question, answer, row):
    if file.exists():
        left = int(file.read_text()) - 1
        file.write_text(str(left))
        if not left:
            file.unlink()
            os.kill(os.getpid(), signal.SIGINT)
    return random.random()
"""


@pytest.fixture
def stopped(here, monkeypatch):
    """Function of an iteration, a signal, and options: the config `s.py`, of a run that stops there."""
    Path("stop_hook.py").write_text(HOOK)
    monkeypatch.syspath_prepend(str(here))

    def write(at, name="SIGTERM", text=CONFIG):
        hook = f"from stop_hook import Stop\ncustom_hooks = [dict(type=Stop, at={at!r}, name={name!r})]\n"
        Path("s.py").write_text(text + hook)

    yield write
    sys.modules.pop("stop_hook", None)


def run_stopped(*options, code=143):
    """Train `s.py` in this process until its own signal stops it."""
    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
    before = [signal.getsignal(number) for number in numbers]
    try:
        with pytest.raises(SystemExit) as end:
            cli.main(["train", "s.py", "--work-dir", "part", "--cfg-options", "max_new_tokens=30", *options])
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    assert end.value.code == code


def goes_on(*options, last):
    """The run that was stopped, resumed without the hook, and one that never stopped are equal."""
    Path("part/s.py").unlink()
    train("whole", "max_new_tokens=30", *options)
    train("part", "max_new_tokens=30", *options, resume=True)
    assert_equal(weights("whole", last), weights("part", last))
    whole, part = numbers("whole"), numbers("part")
    assert part == whole


@pytest.mark.parametrize(
    ("at", "iteration", "options"),
    [
        (0, 0, ["interval=100"]),
        (1, 1, ["interval=100"]),
        (2, 2, ["interval=2"]),  # saved already
        (2, 2, ["interval=100", "accumulative_counts=2"]),
        (2, 2, ["interval=100", "iterations=2", "count=3", "rollouts.max_running=5"]),
    ],
)
def test_the_next_token_is_the_last(stopped, at, iteration, options, capsys):
    """The checkpoint is that before the update, also before the first; nothing of the update was trained."""
    stopped(at)
    run_stopped(*options)
    assert int(Path("count").read_text()) == NUMBER
    assert [p.name for p in Path("part").glob("iter_*.pth")] == [f"iter_{iteration}.pth"]
    said = capsys.readouterr().err
    assert "SIGTERM: stopping with a checkpoint" in said
    assert re.search(rf"Stopped in iter {at + 1}; --resume goes on from \S*iter_{iteration}.pth", said)
    goes_on(*options, last=4)


def test_a_signal_while_answers_are_rewarded(stopped):
    """Stops before the update too; a reward that draws numbers draws the same ones again."""
    Path("own.py").write_text(RANDOM)
    stopped(None)
    Path("stop_at").write_text("20")
    run_stopped("interval=100", code=130)
    assert [p.name for p in Path("part").glob("iter_*.pth")] == ["iter_1.pth"]
    goes_on("interval=100", last=4)


def test_validation_is_cancelled_at_the_next_token(stopped):
    """And the iteration is saved."""
    stopped("validation")
    run_stopped("interval=2")
    assert int(Path("count").read_text()) == NUMBER
    assert [p.name for p in Path("part").glob("iter_*.pth")] == ["iter_2.pth"]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "more"), [(1, []), (2, []), (2, FSDP)])
def test_a_real_process_that_is_stopped_while_it_samples_goes_on_to_the_bit(stopped, processes, more):
    """Also if one of two processes gets the signal, and the other samples to the end of its answers."""
    stopped(1)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *sys.path]), "OMP_NUM_THREADS": "1"}
    env |= {"NPROC_PER_NODE": str(processes)} if processes > 1 else {}
    options = ["--cfg-options", "max_new_tokens=30", "interval=100", "batch_size=2", *more]
    command = [sys.executable, "-m", "xtuner", "train"]
    work = ["--work-dir", "part", *options]
    found = subprocess.run([*command, "s.py", *work], env=env, timeout=150, capture_output=True, text=True)
    assert found.returncode == 143, found.stderr[-2000:]
    assert "iter_1.pth" in found.stderr
    Path("part/s.py").unlink()
    for folder, how in (("whole", []), ("part", ["--resume"])):
        words = [*command, "c.py", "--work-dir", folder, *how, *options]
        subprocess.run(words, env=env, check=True, timeout=150, capture_output=True)
    assert_equal(weights("whole", 4), weights("part", 4))
    assert numbers("part") == numbers("whole")
