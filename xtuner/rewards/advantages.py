"""How much better an answer is than the other answers to its prompt.

rewards [prompts, count]    1 0 0 1      mean 0.5, standard deviation 0.58
advantages                  0.87 -0.87 -0.87 0.87
"""

from __future__ import annotations

import numpy as np

# As in TRL, so that groups with tiny differences do not weigh as much as others.
EPSILON = 1e-4


def advantages_of(rewards: np.ndarray, scale: bool = True, leave_one_out: bool = False) -> np.ndarray:
    """The advantages `[prompts, count]` of rewards: less the mean of the group, divided by its deviation.

    Without `scale` they are not divided (Liu et al. 2025, 2503.20783). With `leave_one_out` the mean is that
    of the other answers (RLOO, Ahmadian et al. 2024, 2402.14740).
    """
    rewards = np.asarray(rewards, np.float64)
    count = rewards.shape[1]
    centred = rewards - rewards.mean(1, keepdims=True)
    # The mean of equal numbers may be off by a rounding error, which a small deviation would make large.
    centred[differ(rewards) == 0] = 0.0
    if leave_one_out:
        centred = centred * count / (count - 1)
    return centred / (rewards.std(1, ddof=1, keepdims=True) + EPSILON) if scale else centred


def differ(rewards: np.ndarray) -> np.ndarray:
    """Whether the rewards of each group differ; a group without a difference has no gradient."""
    return rewards.min(1) != rewards.max(1)
