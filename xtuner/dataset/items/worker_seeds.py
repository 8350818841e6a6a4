"""Seeds of the random numbers that a user's code draws in the workers of a loader.

    seed of the run, reader, epoch, batch or item  ->  random, numpy.random, torch

Each batch begins with a seed of its own, so what is drawn for it depends neither on the number of workers nor
on what was read before it: a resumed run draws the same.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from torch.utils.data import get_worker_info


def generator_for(*numbers: int) -> torch.Generator:
    """A generator that gives a loader the base of its workers' seeds."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]))


def seed_worker(*numbers: int) -> None:
    """Seed every generator of this worker by its loader and `numbers`; outside of workers, none."""
    info = get_worker_info()
    if info is None:
        return
    words = np.random.SeedSequence([info.seed - info.id, *numbers]).generate_state(4)
    random.seed(words.tobytes())
    np.random.seed(words)
    # Not torch.manual_seed, which also seeds devices that a worker has nothing to do with.
    torch.default_generator.manual_seed(int(words[0]) << 32 | int(words[1]))
