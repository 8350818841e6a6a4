"""Kept keys and values grow in place, and equal those of transformers' cache."""

import pytest
import torch
from transformers import DynamicCache

from xtuner.generation.growing_cache import ROOM, let_grow


def step(rows: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of `tokens` new tokens; values have another width."""
    return torch.randn(rows, 2, tokens, 4), torch.randn(rows, 2, tokens, 3)


@pytest.fixture
def both():
    """A cache that grows and one that does not, after the same prompt of 5 tokens."""
    prompt = step(2, 5)
    caches = DynamicCache(), DynamicCache()
    for cache in caches:
        cache.update(*prompt, 0)
    let_grow(caches[0])
    return caches


def test_the_same_after_every_change(both):
    """One token, many tokens, a crop, a removed row, a reset: the numbers stay the same."""

    def crop(cache):
        cache.crop(-3)

    def leave(cache):
        layer = cache.layers[0]
        layer.keys, layer.values = layer.keys[1:, :, 1:], layer.values[1:, :, 1:]

    def reset(cache):
        cache.reset()

    for change in (crop, leave, reset):
        for tokens in (1, 1, ROOM, 2, 1):
            new = step(1 if both[0].layers[0].keys is None else len(both[0].layers[0].keys), tokens)
            grown, plain = (cache.update(*new, 0) for cache in both)
            for ours, theirs in zip(grown, plain, strict=True):
                assert ours.equal(theirs)
            assert both[0].get_seq_length() == both[1].get_seq_length()
        for cache in both:
            change(cache)
        assert both[0].get_seq_length() == both[1].get_seq_length()


def test_a_token_is_written_in_place(both):
    """The kept tokens are copied once for many new tokens."""
    places = set()
    for _ in range(ROOM):
        keys, values = both[0].update(*step(2, 1), 0)
        places.add((keys.data_ptr(), values.data_ptr()))
    assert len(places) == 1
