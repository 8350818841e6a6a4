"""Dropout masks: the right share, everywhere, and nothing that one place tells of another."""

import pytest
import torch

from xtuner.model.fused.dropout import _hashes, kept, masked, new_seed

SEEDS = [0, 1, -1, 2**32, 0x0123456789ABCDEF, -(2**63), 2**63 - 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_mask_drops_its_share_everywhere_alike(dtype):
    """A tenth within four standard deviations, in each of the four numbers made from one word."""
    x = torch.randn(1000, 400).to(dtype)  # drawn in bf16, torch 2.11 gives zeros too
    result = masked(x, kept(x, 0.1, seed=7))
    assert torch.equal(result[result != 0], x[(result != 0)])
    for part in range(4):
        share = (result[:, part::4] == 0).double().mean()
        assert abs(share - 0.1) < 4 * (0.1 * 0.9 / 100_000) ** 0.5
    assert not torch.equal(kept(x, 0.1, seed=7), kept(x, 0.1, seed=8))


@pytest.mark.parametrize("seed", SEEDS)
def test_bits_are_those_of_murmur_hash(seed):
    """Against its last step as published, in Python's integers."""

    def mixed(place):
        h = (place * (seed >> 32 | 1) + seed) % 2**32
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            h = (h ^ h >> shift) * factor % 2**32
        return h - 2**32 if h >= 2**31 else h

    found = _hashes(300_000, seed).tolist()
    assert found[:50] == [mixed(place) for place in range(50)]
    assert found[50::4999] == [mixed(place) for place in range(50, 300_000, 4999)]


def test_no_place_tells_of_another_and_no_mask_of_the_next():
    """Of 4,000,000 places: those beside, below and in the other mask agree as often as chance has it."""
    torch.manual_seed(0)
    shape = (2000, 2000)
    x = torch.empty(shape, dtype=torch.bfloat16)
    first, second = ((kept(x, 0.25, new_seed()) - 0.75).double() for _ in range(2))
    deviation = 0.25 * 0.75 / shape[0]  # of the mean of products
    assert abs((first * second).mean()) < 4 * deviation
    for step in (1, 2, 3, 4, 7, 8, 64, 512, 1024):
        assert abs((first[:, step:] * first[:, :-step]).sum() / x.numel()) < 4 * deviation
        assert abs((first[step:] * first[:-step]).sum() / x.numel()) < 4 * deviation
    # Sums of rows and columns vary as those of independent places: chi square of 2,000 terms.
    for dim in (0, 1):
        sums = first.sum(dim) / (0.25 * 0.75 * shape[0]) ** 0.5
        assert abs(sums.square().sum() - 2000) < 4 * (2 * 2000) ** 0.5


def test_the_seed_follows_the_process_and_so_does_the_mask():
    torch.manual_seed(5)
    seeds = [new_seed() for _ in range(3)]
    torch.manual_seed(5)
    assert [new_seed() for _ in range(3)] == seeds
    assert len(set(seeds)) == 3
    x = torch.empty(7, 3)
    assert torch.equal(kept(x, 0.5, seeds[0]), kept(x, 0.5, seeds[0]))
