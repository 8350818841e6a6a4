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


OFFLOADS = {"npu": True, "mps": False}


@pytest.fixture(scope="module")
def lines():
    """What the steps print, by the kind of the device."""
    program = [sys.executable, "-m", "tests.model.on_device", *OFFLOADS]
    done = subprocess.run(program, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return [line.strip() for line in done.stdout.splitlines()]


@pytest.mark.parametrize("kind", OFFLOADS)
def test_no_step_mixes_devices(kind, lines):
    """Where the device has no memory of its own, nothing is offloaded."""
    wanted = [f"{s} npu:0{' and host' if OFFLOADS[kind] and 'offload' in s else ''}" for s in STEPS]
    assert [line.removeprefix(f"{kind} ") for line in lines if line.startswith(f"{kind} ")] == wanted
