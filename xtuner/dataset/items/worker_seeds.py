"""Seeds of the random generators in the workers of a loader, for the user's code.

    seed of the run, reader, epoch, batch or item  ->  random, numpy.random, torch

Each batch has a separate seed, so its random numbers depend neither on the number of workers nor on earlier
batches: a resumed run draws the same.
"""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def generator_for(*numbers: int) -> torch.Generator:
    """A generator for a loader, from which it draws the base of its workers' seeds."""
    import torch

    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]))


def seed_worker(*numbers: int) -> None:
    """Seed all generators of this worker by its loader and `numbers`; does nothing outside of workers."""
    # torch takes seconds to import and is not needed to read rows; workers have imported it.
    torch = sys.modules.get("torch")
    info = None if torch is None else torch.utils.data.get_worker_info()
    if torch is None or info is None:
        return
    words = np.random.SeedSequence([info.seed - info.id, *numbers]).generate_state(4)
    random.seed(words.tobytes())
    np.random.seed(words)
    # Not torch.manual_seed, which also seeds devices that a worker does not use.
    torch.default_generator.manual_seed(int(words[0]) << 32 | int(words[1]))
