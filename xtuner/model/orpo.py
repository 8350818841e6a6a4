"""Odds ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691): no reference, one stage.

p        exp of the mean log-probability of an answer's supervised tokens
odds     p / (1 - p)
loss     -log p of chosen - beta * log sigmoid(log odds of chosen - log odds of rejected), the mean over pairs
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from xtuner.model.packed import Packed
from xtuner.model.pairs import PairLanguageModel, answer_metrics, answers_of, check_beta
from xtuner.model.preference_losses import log_odds


class ORPO(PairLanguageModel):
    """A language model that learns the chosen answers, and at the same time to prefer them."""

    metrics = (*PairLanguageModel.metrics, "log_odds_ratio", "log_odds_chosen", "nll_loss")
    better_if_larger = PairLanguageModel.better_if_larger | {"log_odds_ratio", "log_odds_chosen"}

    def __init__(
        self,
        llm: Mapping[str, Any] | nn.Module,
        beta: float = 0.1,
        lora: Any = None,
        peft_model: str | None = None,
        use_activation_checkpointing: bool | str | None = None,
        use_varlen_attn: bool = False,
        tokenizer: Any = None,
        max_position_embeddings: int | None = None,
    ):
        """`beta`: the weight of the preference, lambda in the paper."""
        check_beta(beta)
        super().__init__(
            llm,
            lora,
            peft_model,
            use_activation_checkpointing,
            use_varlen_attn,
            tokenizer,
            max_position_embeddings,
        )
        self.beta = beta

    def losses(self, packed: Packed) -> tuple[Tensor, Mapping[str, Tensor]]:
        answers = answers_of(self, packed, with_entropies=True)
        means = answers.means
        odds = log_odds(means)
        differences = odds[0::2] - odds[1::2]
        preference, nll = logsigmoid(differences), -means[0::2]
        values = answer_metrics(self.beta * means, answers, of_means=True)
        more = {"log_odds_ratio": preference, "log_odds_chosen": differences, "nll_loss": nll}
        return nll - self.beta * preference, {**values, **more}
