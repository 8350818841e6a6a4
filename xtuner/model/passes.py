"""From a flat batch of samples to forward passes of the model.

    samples    a a a | b b | c c c
    one row    a a a b b c c c         where attention keeps samples apart
    apart      a a a    b b            where it does not: samples of one length side by side, without
               c c c                   padding, as any code of transformers takes them

A token is trained where the next one of its sample has a label.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xtuner.model import attention
from xtuner.model.loss import next_tokens
from xtuner.parallel.sequence import ulysses
from xtuner.utils.constants import IGNORE_INDEX


@dataclass(frozen=True)
class Pass:
    """One call of the model with tokens `[B, T]`."""

    inputs: Mapping[str, Any]  # arguments of the model
    index: Tensor  # where in the flat batch each token stands, `[B, T]`
    rows: Tensor  # where a token is trained, `[M]`
    columns: Tensor
    targets: Tensor  # the tokens after those
    pieces: attention.Pieces | None = None  # of samples that are one row: see `attention.packed_batch`

    def trained(self, output: Tensor) -> Tensor:
        """Of an `output [B, T, n]` of the model what stands at the trained tokens, `[M, n]`."""
        return output.flatten(0, 1)[self.rows * output.shape[1] + self.columns]

    def columns_with_loss(self) -> Tensor:
        """Of which tokens logits are asked for: a model gives the same ones for each row."""
        return self.columns if len(self.index) == 1 else self.columns.unique()

    def trained_of(self, logits: Tensor, columns: Tensor) -> Tensor:
        """As `trained`, of logits at `columns` alone, or at all where the family cannot choose."""
        if logits.shape[1] != len(columns):
            return self.trained(logits)
        if len(self.index) == 1:
            return logits[0]
        return logits.flatten(0, 1)[self.rows * len(columns) + torch.searchsorted(columns, self.columns)]


def _pass(inputs: Mapping[str, Any], index: Tensor, targets: Tensor, pieces: Any = None) -> Pass:
    rows, columns = (targets != IGNORE_INDEX).nonzero(as_tuple=True)
    return Pass(inputs, index, rows, columns, targets[rows, columns], pieces)


def one_row(flat: Mapping[str, Any], length: int, group: Any = None, masked: bool = False) -> Pass:
    """All samples as one row, filled up to `length` tokens: the padding is one more sample, without labels.

    `group`: the processes that share the row. `masked`: the padding is told from other tokens by an
    `attention_mask` too.
    """
    ids, borders, missing = flat["input_ids"], list(flat["borders"]), length - len(flat["input_ids"])
    targets = next_tokens(flat["labels"], borders)
    if missing:
        ids = torch.cat([ids, ids.new_zeros(missing)])
        targets = torch.cat([targets, targets.new_full((missing,), IGNORE_INDEX)])
        borders.append(length)
    inputs = attention.packed_inputs(ids[None], borders)
    index = torch.arange(length, device=ids.device)[None]
    if missing and masked:
        inputs["attention_mask"] = (index < length - missing).long()
    if group is None:
        return _pass(inputs, index, targets[None], ())
    for name in ("input_ids", "position_ids", "attention_mask"):
        if inputs[name] is not None:
            inputs[name] = ulysses.own_part(inputs[name], 1, group)
    inputs["sequence_group"] = group
    index, targets = (ulysses.own_part(x, 1, group) for x in (index, targets[None]))
    return _pass(inputs, index, targets, ulysses.own_pieces(borders, group))


def apart(flat: Mapping[str, Any]) -> list[Pass]:
    """The samples side by side where they are of one length, in the order in which lengths first come."""
    starts = defaultdict(list)
    for start, end in itertools.pairwise(flat["borders"]):
        if end > start:
            starts[end - start].append(start)
    ids, targets, passes = flat["input_ids"], next_tokens(flat["labels"], flat["borders"]), []
    for length, firsts in starts.items():
        index = torch.tensor(firsts, device=ids.device)[:, None] + torch.arange(length, device=ids.device)
        passes.append(_pass({"input_ids": ids[index], "use_cache": False}, index, targets[index]))
    return passes


def filler(device: torch.device) -> Pass:
    """A pass without trained tokens, for processes that have fewer samples than others."""
    ids = torch.zeros(1, 1, dtype=torch.long, device=device)
    return _pass({"input_ids": ids, "use_cache": False}, ids, torch.full_like(ids, IGNORE_INDEX))


def in_order(found: Sequence[Pass], outputs: Sequence[Any]) -> Tensor:
    """The logits `[N, V]` of all passes, as the tokens stand in the flat batch."""
    index = torch.cat([p.index.flatten() for p in found])
    logits = torch.cat([output.logits.flatten(0, 1) for output in outputs])
    return logits[index.argsort()]


def joined(found: Sequence[Pass], outputs: Sequence[Any]) -> Any:
    """What the passes give together, as the output of one."""
    from transformers.modeling_outputs import CausalLMOutput

    return CausalLMOutput(logits=in_order(found, outputs)[None])
