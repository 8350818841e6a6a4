"""FlexAttention on packed samples, in the reference form that torch has for a CPU."""

import itertools

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from xtuner.model import attention_kernels
from xtuner.model.flex import BLOCK, blocks_of_keys, flex

BOUNDARIES = [0, 3, 3 + BLOCK, 4 * BLOCK + 7, 4 * BLOCK + 8, 6 * BLOCK + 1]


@pytest.mark.parametrize(
    ("window", "softcap", "has_sinks", "scaling", "has_bias"),
    [
        (None, None, False, None, False),
        (5, None, False, 0.5, False),
        (BLOCK + 1, 2.0, False, None, False),
        (None, None, True, None, False),
        (300, 1.0, True, 0.3, False),
        (None, None, False, 0.3, True),
        (BLOCK + 1, None, True, None, True),
    ],
)
@pytest.mark.filterwarnings("ignore:.*called without torch.compile:UserWarning")
def test_it_gives_what_samples_alone_give(window, softcap, has_sinks, scaling, has_bias):
    """Queries have twice as many heads as keys; samples begin and end inside of blocks."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, BOUNDARIES[-1], 8).double() for heads in (4, 2, 2))
    sinks = torch.randn(4).double() if has_sinks else None
    bias = 100 * torch.rand(4, BOUNDARIES[-1]).double() if has_bias else None
    longest = max(b - a for a, b in itertools.pairwise(BOUNDARIES))
    call = attention_kernels.Call(
        query, key, value, torch.tensor(BOUNDARIES), BOUNDARIES, longest, scaling, 0.0, window, softcap,
        sinks, bias,
    )  # fmt: skip
    found = flex(query, key, value, BOUNDARIES, scaling, window, softcap, sinks, bias, flex_attention)
    torch.testing.assert_close(found, attention_kernels._by_run(call), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("window", [None, 1, 5, BLOCK, BLOCK + 1, 300])
def test_blocks_hold_all_that_is_seen_and_whole_ones_nothing_else(window):
    """Against the square mask, block by block."""
    length = BOUNDARIES[-1]
    sample = torch.bucketize(torch.arange(length), torch.tensor(BOUNDARIES[1:]), right=True)
    row, column = torch.arange(length)[:, None], torch.arange(length)[None]
    seen = (column <= row) & (sample[:, None] == sample)
    if window is not None:
        seen &= row - column < window
    partial, full = blocks_of_keys(BOUNDARIES, window)
    for number, rows in enumerate(seen.split(BLOCK)):
        blocks = rows.split(BLOCK, dim=1)
        assert {*partial[number], *full[number]} >= {n for n, block in enumerate(blocks) if block.any()}
        assert not {*partial[number]} & {*full[number]}
        assert all(blocks[n].all() for n in full[number])


def test_a_long_sample_is_mostly_whole_blocks():
    """Which need no mask: 3 of the 4 that the last queries see."""
    assert blocks_of_keys([0, 4 * BLOCK], None)[1][3] == range(3)
