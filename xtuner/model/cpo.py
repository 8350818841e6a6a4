"""Contrastive preference optimisation (Xu et al. 2024, arXiv 2401.08417): DPO without a reference.

reward     beta * log-probability of an answer's supervised tokens
loss       -log sigmoid(reward of chosen - reward of rejected) + sft_weight * -mean log-probability of chosen

`loss_type` "hinge" and "ipo" are as in DPO.
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
    check_known,
    check_smoothing,
    check_weights,
)
from xtuner.model.preference_losses import CPO_LOSSES, OF_MEANS, cpo_loss


class CPO(PairLanguageModel):
    """A language model that learns the chosen answer of each pair and to prefer it."""

    metrics = (*PairLanguageModel.metrics, "nll_loss")

    def __init__(
        self,
        llm: Mapping[str, Any] | nn.Module,
        beta: float = 0.1,
        loss_type: str = "sigmoid",
        label_smoothing: float = 0.0,
        sft_weight: float = 1.0,
        lora: Any = None,
        peft_model: str | None = None,
        use_activation_checkpointing: bool | str | None = None,
        use_varlen_attn: bool = False,
        tokenizer: Any = None,
        max_position_embeddings: int | None = None,
    ):
        """`sft_weight`: the weight of the supervised loss of the chosen answer, the mean over its tokens."""
        check_beta(beta)
        check_known("loss_type", loss_type, CPO_LOSSES)
        check_smoothing(label_smoothing, loss_type)
        check_weights(sft_weight=sft_weight)
        super().__init__(
            llm,
            lora,
            peft_model,
            use_activation_checkpointing,
            use_varlen_attn,
            tokenizer,
            max_position_embeddings,
        )
        self.beta, self.loss_type = beta, loss_type
        self.label_smoothing, self.sft_weight = label_smoothing, sft_weight

    def losses(self, packed: Packed) -> tuple[Tensor, Mapping[str, Tensor]]:
        answers, of_means = answers_of(self, packed, with_entropies=True), self.loss_type in OF_MEANS
        logprobs = answers.means if of_means else answers.logprobs
        margins = logprobs[0::2] - logprobs[1::2]
        losses = cpo_loss(margins, self.beta, self.loss_type, self.label_smoothing)
        nll = -answers.means[0::2]
        values = {**answer_metrics(self.beta * logprobs, answers, of_means), "nll_loss": nll}
        return losses + self.sft_weight * nll, values
