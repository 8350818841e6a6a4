"""Without a GPU the kernels run in Triton's interpreter, which is chosen before Triton is imported."""

import os

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"


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
