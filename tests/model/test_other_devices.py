"""Training steps on accelerators that are not here: one that torch lets Python register stands for them."""

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

from tests.model.on_device import STEPS

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="torch cannot register a device in Python",
)


@pytest.mark.parametrize(("facts", "offloads"), [("npu", True), ("mps", False)])
def test_no_step_mixes_devices(facts, offloads):
    """Where the device has no memory of its own, nothing is offloaded."""
    program = [sys.executable, "-m", "tests.model.on_device", facts]
    done = subprocess.run(program, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    wanted = [f"{step} npu:0{' and host' if offloads and 'offload' in step else ''}" for step in STEPS]
    assert [line.strip() for line in done.stdout.splitlines()] == wanted
