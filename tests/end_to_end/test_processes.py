"""Two real processes of `xtuner train`: stopped, resumed, one of them killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[1] / "data" / "bad_input" / "config.py"
ROWS = [{"instruction": f"who are you {i}", "input": "", "output": f"a small model {i}"} for i in range(6)]


@pytest.fixture
def here(tmp_path, llama_dir) -> Path:
    """A folder with `c.py`, `model/` and `d.json`, in which the command runs."""
    shutil.copy(CONFIG, tmp_path / "c.py")
    shutil.copytree(llama_dir, tmp_path / "model")
    (tmp_path / "d.json").write_text(json.dumps(ROWS), encoding="utf-8")
    return tmp_path


def start(here: Path, *words: str) -> subprocess.Popen:
    """`xtuner train` with two processes that train for very long, once their first checkpoint is there."""
    command = [sys.executable, "-m", "xtuner", "train", "c.py", "--work-dir", "w", *words]
    command += ["--cfg-options", "max_iters=99999"]
    env = {**os.environ, "NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "1"}
    before = set((here / "w").glob("iter_*"))
    run = subprocess.Popen(command, cwd=here, env=env, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while (
        not set((here / "w").glob("iter_*")) - before and time.monotonic() < deadline and run.poll() is None
    ):
        time.sleep(0.05)
    return run


def children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_stopped_resumed_and_killed(here):
    """SIGTERM leaves a checkpoint to go on from; kill -9 of one process ends the other, which is named."""
    run = start(here)
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 143
    last = (here / "w" / "last_checkpoint").read_text()
    number = int(Path(last).stem.removeprefix("iter_"))
    assert f"Stopped in iter {number}; --resume goes on from w/iter_{number}.pth" in said
    assert "Traceback" not in said

    run = start(here, "--resume")
    _, second = children(run.pid)
    os.kill(second, signal.SIGKILL)
    killed = time.monotonic()
    _, said = run.communicate(timeout=60)
    assert time.monotonic() - killed < 30
    assert f"Resumed at iter {number} of 99999" in said
    assert run.returncode == 137
    assert f"xtuner: error: rank 1 (process {second}) was killed by SIGKILL" in said
    assert "Traceback" not in said
