"""Simple preference optimisation (Meng et al. 2024, arXiv 2405.14734): no reference, answers of any length.

reward     beta * mean log-probability of an answer's supervised tokens
loss       -log sigmoid(reward of chosen - reward of rejected - gamma), the mean over the pairs of the update
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from xtuner.model.packed import Packed
from xtuner.model.pairs import (
    PairLanguageModel,
    answer_metrics,
    answers_of,
    check_beta,
    check_smoothing,
    check_weights,
)
from xtuner.model.preference_losses import cpo_loss


class SimPO(PairLanguageModel):
    """A language model that learns to prefer the chosen answer of each pair by a margin, token by token."""

    metrics = (*PairLanguageModel.metrics, "nll_loss")

    def __init__(
        self,
        llm: Mapping[str, Any] | nn.Module,
        beta: float = 2.0,
        gamma: float = 1.0,
        label_smoothing: float = 0.0,
        sft_weight: float = 0.0,
        lora: Any = None,
        peft_model: str | None = None,
        use_activation_checkpointing: bool | str | None = None,
        use_varlen_attn: bool = False,
        tokenizer: Any = None,
        max_position_embeddings: int | None = None,
    ):
        """`gamma`: how much larger the reward of the chosen answer is to be; half of `beta` is usual.

        `sft_weight`: the weight of a supervised loss of the chosen answer, the mean over its tokens.
        """
        check_beta(beta)
        check_smoothing(label_smoothing)
        check_weights(gamma=gamma, sft_weight=sft_weight)
        super().__init__(
            llm,
            lora,
            peft_model,
            use_activation_checkpointing,
            use_varlen_attn,
            tokenizer,
            max_position_embeddings,
        )
        self.beta, self.gamma = beta, gamma
        self.label_smoothing, self.sft_weight = label_smoothing, sft_weight

    def losses(self, packed: Packed) -> tuple[Tensor, Mapping[str, Tensor]]:
        answers = answers_of(self, packed, with_entropies=True)
        means = answers.means
        margins = means[0::2] - means[1::2] - self.gamma / self.beta
        losses = cpo_loss(margins, self.beta, smoothing=self.label_smoothing)
        nll = -means[0::2]
        values = {**answer_metrics(self.beta * means, answers, of_means=True), "nll_loss": nll}
        return losses + self.sft_weight * nll, values
