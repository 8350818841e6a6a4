"""The random numbers of a run: one seed, and the state of all generators as plain containers."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from xtuner import devices
from xtuner.language import translate
from xtuner.log import logger


def set_seed(seed: int, deterministic: bool) -> None:
    """Seed every generator of the run."""
    logger.info(translate("Seed: %d%s"), seed, translate(", deterministic") if deterministic else "")
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)


def get_rng_state() -> dict[str, Any]:
    """The state of every generator, as plain containers and tensors."""
    version, numbers, gauss = random.getstate()
    legacy: Any = np.random.get_state(legacy=True)
    kind, keys, *rest = legacy
    state = {
        "python": [version, list(numbers), gauss],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }
    return state | devices.get_rng_state()


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore every generator to the state from `get_rng_state`."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].clone())
    devices.set_rng_state(state)
