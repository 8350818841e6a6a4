"""What a GPU computes, holds and waits for: `make gpu`.

With XTUNER_STAND_IN=1 the CPU stands in for a GPU, for the tests that it can run at all.
"""

from __future__ import annotations

import os

import pytest
import torch

from tests.model.conftest import batch, gradients, relative_error
from xtuner import dist

__all__ = ["batch", "gradients", "relative_error"]
STANDS_IN = bool(os.environ.get("XTUNER_STAND_IN"))


@pytest.fixture(autouse=True)
def _needs_gpu(request, monkeypatch):
    if torch.cuda.is_available() or not request.node.get_closest_marker("gpu"):
        return
    if not STANDS_IN or request.node.get_closest_marker("no_stand_in"):
        pytest.skip("needs a GPU")
    # A CPU that computes in 16 bits slowly computes the same.
    for module in ("xtuner.model.loading", "xtuner.estimate.machine"):
        monkeypatch.setattr(f"{module}.cpu_computes_in_bf16", lambda: True)


@pytest.fixture
def device() -> torch.device:
    """The GPU, or the CPU that stands in for it."""
    return dist.device()


@pytest.fixture
def on_device(batch, device):
    """The batch with its tensors on the device; where samples begin stays on the host."""
    return {
        name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()
    }
