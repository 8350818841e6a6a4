"""A process reward model: at the end of each step of an answer, whether the step is right.

samples    a prompt and the steps of an answer             labels: 1 a right step, 0 a wrong one
logits     the head's two numbers at the last token of each step, wrong and right
loss       their cross entropy, the mean over steps

The head is one for token classification with two labels: what TRL trains and what loads in transformers
without code of ours. It gives two numbers at every token, of which those at the ends of steps count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.model.packed import Packed, to_device
from xtuner.model.pairs import shared_outputs
from xtuner.model.scoring import OF_TOKENS, ScoringModel
from xtuner.model.train_module import Outputs

LABELS = ("wrong", "right")


class ProcessRewardModel(ScoringModel):
    """A language model whose head says how good each step of an answer is."""

    kind = OF_TOKENS
    # `score_mean`: the mean probability of "right", of all steps.
    metrics = ("acc", "score_mean")
    better_if_larger = frozenset({"acc"})

    def __init__(
        self,
        llm: Mapping[str, Any] | nn.Module,
        lora: Any = None,
        peft_model: str | None = None,
        use_activation_checkpointing: bool | str | None = None,
        use_varlen_attn: bool = False,
        tokenizer: Any = None,
        max_position_embeddings: int | None = None,
    ):
        super().__init__(
            llm,
            lora,
            peft_model,
            use_activation_checkpointing,
            use_varlen_attn,
            tokenizer,
            max_position_embeddings,
            LABELS,
        )

    def num_items(self, data: dict[str, Any]) -> int:
        """The number of steps."""
        if "num_steps" not in data:
            what = (
                "train_dataloader: {method} trains on answers in steps: set dataset = "
                "dict(type=build_stepwise_dataset, ...) and collate_fn = dict(type=stepwise_collate_fn)"
            )
            raise ConfigError(translate(what, method=type(self).__name__))
        return data["num_steps"]

    def outputs_of(self, packed: Packed, data: dict[str, Any], mode: str) -> Any:
        """`{"scores"}` of the steps of each sample ("predict"), the model's own outputs ("tensor")."""
        if mode != "predict":
            return super().outputs_of(packed, data, mode)
        counts = np.diff(np.searchsorted(packed.positions, packed.boundaries))
        scores = self.scores(packed, packed.positions).softmax(-1)[:, 1]
        return [{"scores": found} for found in scores.split(counts.tolist())]

    def compute_loss(self, packed: Packed, num_items: int | Tensor | None) -> Outputs:
        logits = self.scores(packed, packed.positions)
        labels = to_device(packed.targets, logits.device)
        losses = functional.cross_entropy(logits, labels, reduction="none")
        values = ((logits.argmax(1) == labels).to(logits.dtype), logits.softmax(-1)[:, 1])
        named = dict(zip(self.metrics, values, strict=True))
        return shared_outputs(losses, named, num_items, self._sequence_group)
