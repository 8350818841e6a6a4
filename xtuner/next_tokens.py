"""Which positions have a loss: those whose next token, in the same sample, is supervised.

samples      a  b  c | d  e        boundaries [0, 3, 5]
labels       -  b  c | d  e        ("-" is -100: not supervised)
positions    0  1      3           a position predicts the token after it,
targets      b  c      e           the first token of a sample ("d") is nobody's target
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xtuner.utils.constants import IGNORE_INDEX


def next_tokens(labels: np.ndarray, boundaries: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions and targets, `[M]` int64 each, of flat `labels [N]` with samples between `boundaries`."""
    targets = np.full(len(labels), IGNORE_INDEX, np.int64)
    targets[:-1] = labels[1:]
    ends = np.asarray(boundaries, np.int64)[1:]
    targets[ends[ends > 0] - 1] = IGNORE_INDEX
    positions = np.flatnonzero(targets != IGNORE_INDEX)
    return positions, targets[positions]
