"""A reward model: a number for each answer, higher for the chosen one of a pair.

samples    prompt and answer, ended by the reward token        chosen 0, rejected 0, chosen 1, ...
rewards    the head's number at the last token
loss       ranking or focal loss of the difference, and a penalty on rewards far from 0; the mean over pairs
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.model.base import base_model
from xtuner.model.packed import Packed, last_tokens, to_device
from xtuner.model.pairs import check_known, check_weights, num_pairs, shared_outputs
from xtuner.model.preference_losses import PENALTIES, REWARD_LOSSES
from xtuner.model.scoring import ScoringModel
from xtuner.model.train_module import Outputs


class RewardModel(ScoringModel):
    """A language model whose head says how good an answer is."""

    # Lengths are those of whole samples, prompts included.
    metrics = (
        *("acc", "chosen_score_mean", "rejected_score_mean"),
        *("score_margin", "chosen_length", "rejected_length"),
    )
    better_if_larger = frozenset({"acc", "chosen_score_mean", "score_margin"})

    def __init__(
        self,
        llm: Mapping[str, Any] | nn.Module,
        lora: Any = None,
        peft_model: str | None = None,
        use_activation_checkpointing: bool | str | None = None,
        use_varlen_attn: bool = False,
        tokenizer: Any = None,
        max_position_embeddings: int | None = None,
        reward_token_id: int | None = None,
        loss_type: str = "ranking",
        penalty_type: str = "log_barrier",
        penalty_weight: float = 0.01,
    ):
        """`reward_token_id`: the token that all samples end with; None or -1: any."""
        check_known("loss_type", loss_type, REWARD_LOSSES)
        check_known("penalty_type", penalty_type, PENALTIES)
        check_weights(penalty_weight=penalty_weight)
        super().__init__(
            llm,
            lora,
            peft_model,
            use_activation_checkpointing,
            use_varlen_attn,
            tokenizer,
            max_position_embeddings,
        )
        self.reward_token_id = None if reward_token_id == -1 else reward_token_id
        if self.reward_token_id is not None:
            # In config.json of the model's folder, for programs that score texts with it.
            base_model(self.llm).config.reward_token_id = self.reward_token_id
        if self.reward_token_id is not None and self.reward_token_id == self.llm.config.pad_token_id:
            what = "model.reward_token_id is {token}, the padding token, which has no score: take another"
            raise ConfigError(translate(what, token=reward_token_id))
        self.loss_type, self.penalty_type, self.penalty_weight = loss_type, penalty_type, penalty_weight

    def num_items(self, data: dict[str, Any]) -> int:
        """The number of pairs; ConfigError if a sample does not end with the reward token."""
        count = num_pairs(data, type(self).__name__)
        token = self.reward_token_id
        if token is not None and (other := [last for last in last_tokens(data) if last != token]):
            what = (
                "model.reward_token_id is {token}, but a sample ends with token {last}: set is_reward = "
                "True and the same reward_token_id in build_preference_dataset"
            )
            raise ConfigError(translate(what, token=token, last=other[0]))
        return count

    def compute_loss(self, packed: Packed, num_items: int | Tensor | None) -> Outputs:
        rewards = self.scores(packed)[:, 0]
        chosen, rejected = rewards[0::2], rewards[1::2]
        penalty = PENALTIES[self.penalty_type]
        losses = REWARD_LOSSES[self.loss_type](chosen - rejected)
        losses = losses + self.penalty_weight * (penalty(chosen) + penalty(rejected)) / 2
        lengths = to_device(np.diff(packed.boundaries), rewards.device).to(rewards.dtype)
        values = (
            *((chosen > rejected).to(chosen.dtype), chosen, rejected),
            *(chosen - rejected, lengths[0::2], lengths[1::2]),
        )
        named = dict(zip(self.metrics, values, strict=True))
        return shared_outputs(losses, named, num_items, self._sequence_group)
