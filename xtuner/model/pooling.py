"""Numbers of samples from hidden states: the head at some tokens, or the hidden states of all.

positions    sorted tokens of the batch whose hidden states count: the last of each sample, say
boundaries   parts of the batch; the sum over the positions of each part is returned
read         hidden states [M, h] -> [M, n], such as a head
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from xtuner.model.language_model import PackedLanguageModel
from xtuner.model.packed import Packed
from xtuner.model.pairs import sum_by_sample

Read = Callable[[Tensor], Tensor]


def pooled(
    model: PackedLanguageModel,
    decoder: nn.Module,
    read: Read,
    packed: Packed,
    positions: np.ndarray,
    boundaries: Sequence[int],
) -> Tensor:
    """The sums of `read` at `positions` in each part, `[parts, n]`; sequence-parallel ranks have them all."""
    marked = dataclasses.replace(packed, positions=positions, targets=np.zeros_like(positions))
    todo = model.passes_of(marked, with_loss=True)
    here = [p for p in todo if len(p.targets)]
    values = [read(model.hidden_with_loss(here, decoder)[0])] if here else []
    for p in todo:
        if not len(p.targets):
            # No value, but a graph through the model, so that the collectives of other ranks match.
            hidden = model.run(p, model=decoder).last_hidden_state
            values.append(read(hidden[:, :1].flatten(0, 1))[:0])
    own = np.concatenate([*(p.index[p.rows, p.columns] for p in here), positions[:0]])
    parts = dataclasses.replace(packed, boundaries=boundaries)
    return sum_by_sample(torch.cat(values), own, parts, model._sequence_group)
