"""Lengths that products of matrices are given: few of them, so that kernels are found ready.

For every new shape of a product a CPU's library first compiles a kernel: 2 ms and 2 MB for the three products
of one sample length in attention, where the products themselves take a quarter of a millisecond. It keeps
about a thousand; samples and packs of any length would need more.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad

STEP = 32


def rounded(length: int) -> int:
    """The next multiple of STEP."""
    return -(-length // STEP) * STEP


def padded_rows(x: Tensor) -> Tensor:
    """`x [N, h]` with rows of zeros up to a rounded number."""
    missing = rounded(len(x)) - len(x)
    return pad(x, (0, 0, 0, missing)) if missing else x
