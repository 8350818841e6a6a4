"""Supervised fine-tuning: the mean cross entropy of the supervised tokens of an update.

The head runs only on tokens with a loss, of all passes of a batch at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from xtuner.model.language_model import PackedLanguageModel
from xtuner.model.loss import cross_entropy_sum, head_cross_entropy_sum
from xtuner.model.packed import Packed, loss_positions
from xtuner.model.passes import Pass
from xtuner.model.router import balance_weight
from xtuner.model.train_module import Outputs


class SupervisedFinetune(PackedLanguageModel):
    """A language model that learns the supervised tokens of its data."""

    def num_items(self, data: dict[str, Any]) -> int:
        """The number of tokens with a loss; the first token of a sample never has one."""
        return len(loss_positions(data)[0])

    def describe(self, means: Mapping[str, float]) -> dict[str, float]:
        loss = means["loss"]
        return {**means, "perplexity": math.exp(loss) if loss < 700 else math.inf}

    def compute_loss(self, packed: Packed, num_items: int | Tensor | None) -> Outputs:
        weight = balance_weight(self.llm) if self.training else 0.0  # validation has no balance loss
        todo = self.passes_of(packed, with_loss=True)
        supervised = [p for p in todo if len(p.targets)]
        parts = None if weight else self.head_apart()
        if parts is None:
            losses = [self._loss_sum(p, weight) for p in supervised]
        elif supervised:
            decoder, head = parts
            hidden, targets = self.hidden_with_loss(supervised, decoder)
            losses = [head_cross_entropy_sum(hidden, head, targets)]
        else:
            losses = []
        losses += [self.nothing(p) for p in todo if not len(p.targets)]
        total = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        if supervised:
            total = total / (sum(len(p.targets) for p in supervised) if num_items is None else num_items)
        return {"loss": total, "sums": {}}

    def _loss_sum(self, p: Pass, weight: float) -> Tensor:
        """The sum of the losses of a pass, by the model's own head."""
        columns = p.columns_with_loss()
        output = self.run(p, columns=columns)
        loss = cross_entropy_sum(p.with_loss_of(output.logits, columns), p.device_targets())
        balance = getattr(output, "aux_loss", None) if weight else None
        return loss if balance is None else loss + weight * len(p.targets) * balance
