"""From packed samples to forward passes of the model.

samples    a a a | b b | c c c
together   a a a b b c c c         if attention isolates samples
apart      a a a    b b            otherwise: samples of one length as a batch, without padding, which
           c c c                   any code of transformers supports
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xtuner.model.attention import Pieces
from xtuner.model.packed import Packed, packed_inputs, to_device
from xtuner.parallel.sequence import ulysses


@dataclass(frozen=True)
class Pass:
    """One call of the model with tokens `[B, T]`; arrays are on the host."""

    inputs: Mapping[str, Any]  # arguments of the model
    index: np.ndarray  # position of each token in the batch, `[B, T]`; -1 for padding
    rows: np.ndarray  # positions with a loss, `[M]`
    columns: np.ndarray
    targets: np.ndarray  # the tokens after these
    boundaries: Sequence[int] | None = None  # of samples in one sequence: see `attention.packed_batch`
    pieces: Pieces = ()

    @property
    def device(self) -> torch.device:
        return self.inputs["input_ids"].device

    def device_targets(self) -> Tensor:
        """`targets` on the device of the ids."""
        return to_device(self.targets, self.device)

    def with_loss(self, output: Tensor) -> Tensor:
        """The rows of an `output [B, T, n]` of the model at tokens with a loss, `[M, n]`."""
        return _select(output, self.rows * output.shape[1] + self.columns)

    def columns_with_loss(self) -> np.ndarray:
        """The tokens whose logits are needed: a model gives the same ones for each sequence."""
        return self.columns if len(self.index) == 1 else np.unique(self.columns)

    def with_loss_of(self, logits: Tensor, columns: np.ndarray) -> Tensor:
        """As `with_loss`, for logits at `columns` only, or at all tokens if the family cannot choose."""
        if logits.shape[1] != len(columns):
            return self.with_loss(logits)
        if len(self.index) == 1:
            return logits[0]
        return _select(logits, self.rows * len(columns) + np.searchsorted(columns, self.columns))


def _select(output: Tensor, index: np.ndarray) -> Tensor:
    return output.flatten(0, 1)[to_device(index, output.device)]


def together(packed: Packed, length: int, group: Any = None, masked: bool = False) -> Pass:
    """All samples as one sequence of `length` tokens; the padding is another sample without labels.

    `group`: the sequence-parallel processes. `masked`: with an `attention_mask` for the padding.
    """
    ids, boundaries, missing = packed.input_ids, list(packed.boundaries), length - len(packed.input_ids)
    if missing:
        ids = torch.cat([ids, ids.new_zeros(missing)])
        boundaries.append(length)
    inputs = packed_inputs(ids[None], boundaries)
    index = np.arange(length)
    index[length - missing :] = -1
    if missing and masked:
        inputs["attention_mask"] = to_device(index[None] >= 0, ids.device).long()
    positions, targets = packed.positions, packed.targets
    pieces: Pieces = ()
    if group is not None:
        for name in ("input_ids", "position_ids", "attention_mask"):
            if inputs[name] is not None:
                inputs[name] = ulysses.own_part(inputs[name], 1, group)
        inputs["sequence_group"] = group
        start, end = ulysses.own_range(length, group)
        here = slice(*np.searchsorted(positions, [start, end]))
        index, positions, targets = index[start:end], positions[here] - start, targets[here]
        pieces = ulysses.own_pieces(boundaries, group)
    rows = np.zeros(len(positions), np.int64)
    return Pass(inputs, index[None], rows, positions, targets, boundaries, pieces)


def apart(packed: Packed) -> list[Pass]:
    """Samples of one length as a batch, in the order in which lengths first occur."""
    starts = defaultdict(list)
    for start, end in itertools.pairwise(packed.boundaries):
        if end > start:
            starts[end - start].append(start)
    passes = []
    for length, firsts in starts.items():
        index = np.array(firsts)[:, None] + np.arange(length)
        # The positions of a sample are neighbours in the sorted positions of the batch.
        bounds = np.searchsorted(packed.positions, [[first, first + length] for first in firsts])
        here = np.concatenate([np.arange(a, b) for a, b in bounds])
        rows = np.repeat(np.arange(len(firsts)), bounds[:, 1] - bounds[:, 0])
        columns = packed.positions[here] - np.array(firsts)[rows]
        inputs = {
            "input_ids": packed.input_ids[to_device(index, packed.input_ids.device)],
            "use_cache": False,
        }
        passes.append(Pass(inputs, index, rows, columns, packed.targets[here]))
    return passes


def filler(device: torch.device) -> Pass:
    """A pass without loss, for processes that have fewer samples than others."""
    nothing = np.zeros(0, np.int64)
    inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.long, device=device), "use_cache": False}
    return Pass(inputs, np.full((1, 1), -1), nothing, nothing, nothing)


def in_order(found: Sequence[Pass], outputs: Sequence[Any]) -> Tensor:
    """The logits `[N, V]` of all passes in the order of the batch, without padding."""
    index = np.concatenate([p.index.ravel() for p in found])
    logits = torch.cat([output.logits.flatten(0, 1) for output in outputs])
    order = np.argsort(index, kind="stable")[(index < 0).sum() :]
    return logits[to_device(order, logits.device)]


def joined(found: Sequence[Pass], outputs: Sequence[Any]) -> Any:
    """The outputs of all passes as the output of one."""
    from transformers.modeling_outputs import CausalLMOutput

    return CausalLMOutput(logits=in_order(found, outputs)[None])
