"""What tests of kernels share; without a GPU they run in Triton's interpreter (tests/conftest.py)."""

from importlib.metadata import PackageNotFoundError, version

import pytest
import torch
from packaging.version import Version

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _interpreter_that_loops():
    """Before Triton 3.7 it cannot loop up to an argument, with numpy 2.5."""
    try:
        is_old = Version(version("triton")) < Version("3.7") and Version(version("numpy")) >= Version("2.5")
    except PackageNotFoundError:
        return
    if DEVICE == "cpu" and is_old:
        pytest.skip("Triton's interpreter before 3.7 cannot loop with numpy 2.5; a GPU runs this")


@pytest.fixture
def random():
    """Function of a shape and a dtype: normal numbers, the same in every test."""
    generator = torch.Generator().manual_seed(0)

    def make(*shape, dtype=torch.float32):
        return torch.randn(shape, generator=generator).to(DEVICE, dtype)

    return make


@pytest.fixture
def assert_close():
    """Within a few units of rounding of the largest number."""

    def check(found, expected, unit=None):
        unit = torch.finfo(found.dtype).eps if unit is None else unit
        error = (found.double() - expected.double()).abs().max() / expected.double().abs().max()
        assert error < 4 * unit

    return check
