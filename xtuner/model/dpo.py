"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290): a loss on pairs of answers.

samples      chosen 0, rejected 0, chosen 1, rejected 1, ...      neighbours in a pack, never separated
log-probs    of all supervised tokens, summed for each sample     by the model, and by the reference
reward       beta * (log-prob by the model - log-prob by the reference)
loss         -log sigmoid(reward of chosen - reward of rejected), the mean over the pairs of the update

That is the loss of the type "sigmoid"; preference_losses.py has the others. The reference (reference.py) is
the model with its adapter switched off, without an adapter a frozen copy of it, or the model `ref_llm`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.log import say_once
from xtuner.model.packed import Packed
from xtuner.model.pairs import (
    Answers,
    PairLanguageModel,
    answer_metrics,
    answers_of,
    check_beta,
    check_known,
    check_smoothing,
    check_weights,
    log_ratio_squares,
    of_both,
)
from xtuner.model.preference_losses import (
    DIVERGENCES,
    DPO_LOSSES,
    OF_BATCH,
    OF_MARGINS,
    OF_MEANS,
    Scores,
    score,
)
from xtuner.model.reference import ReferencedModel


class DPO(ReferencedModel, PairLanguageModel):
    """A language model that learns to prefer the chosen answer of each pair, near a reference.

    "kl": half the mean squared log-ratio of the tokens of both answers. With a stored reference
    "kl_lower_bound": the same of the mean log-ratio of each answer, as the sums over answers are stored.
    """

    metrics = (*PairLanguageModel.metrics, "kl")

    def __init__(
        self,
        llm: Mapping[str, Any] | nn.Module,
        ref_llm: Mapping[str, Any] | nn.Module | None = None,
        beta: float = 0.1,
        loss_type: str = "sigmoid",
        label_smoothing: float = 0.0,
        lora: Any = None,
        peft_model: str | None = None,
        use_activation_checkpointing: bool | str | None = None,
        use_varlen_attn: bool = False,
        tokenizer: Any = None,
        max_position_embeddings: int | None = None,
        rpo_alpha: float = 0.0,
        length_normalized: bool = False,
        f_divergence_type: str = "reverse_kl",
        f_alpha_divergence_coef: float = 0.5,
        stored_reference: bool = False,
    ):
        """`label_smoothing`: the fraction of pairs taken to be labelled the wrong way round, below 0.5.

        `rpo_alpha`: the weight of a supervised loss of the chosen answer, the mean over its tokens (Pang et
        al. 2024, 2404.19733). `length_normalized`: log-probabilities are means over tokens, no sums (Lambert
        et al. 2024, 2411.15124). `stored_reference`: the reference runs once, before the first update.
        """
        _check(beta, loss_type, label_smoothing, rpo_alpha, f_divergence_type)
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
        self.loss_type = loss_type
        self.label_smoothing = label_smoothing
        self.rpo_alpha = rpo_alpha
        self.uses_means = length_normalized or loss_type in OF_MEANS
        self.divergence = f_divergence_type, f_alpha_divergence_coef
        if rpo_alpha:
            self.metrics = (*self.metrics, "nll_loss")
        self.keep_reference(llm, ref_llm, peft_model, tokenizer, max_position_embeddings, stored_reference)
        if stored_reference:
            self.metrics = tuple("kl_lower_bound" if name == "kl" else name for name in self.metrics)

    def losses(self, packed: Packed) -> tuple[Tensor, Mapping[str, Tensor]]:
        todo = self.passes_of(packed, with_loss=True)
        before = self.reference_answers(packed, todo)
        now = answers_of(self, packed, todo, with_entropies=True)
        ratios = now.logprobs - before.logprobs
        losses = DPO_LOSSES[self.loss_type](self._scores(now, before), self.beta, self.label_smoothing)
        rewards = self.beta * (ratios / now.lengths.clamp(min=1) if self.uses_means else ratios)
        values = answer_metrics(rewards, now, self.uses_means)
        if self.stores_reference:
            # Jensen: the square of a mean is at most the mean of the squares.
            values["kl_lower_bound"] = of_both(ratios**2 / now.lengths.clamp(min=1) / 2, now.lengths)
        else:
            squares = log_ratio_squares(now, before, packed, self._sequence_group)
            values["kl"] = of_both(squares, now.lengths)
        if self.rpo_alpha:
            values["nll_loss"] = -now.means[0::2]
            losses = losses + self.rpo_alpha * values["nll_loss"]
        return losses, values

    def _scores(self, now: Answers, before: Answers) -> Scores:
        scores = score(now.logprobs - before.logprobs, *self.divergence)
        policy, by_reference = now.logprobs, before.logprobs
        if self.uses_means:
            lengths = now.lengths.clamp(min=1)
            scores, policy, by_reference = scores / lengths, now.means, before.means
        margins = (x[0::2] - x[1::2] for x in (policy, by_reference))
        return Scores(scores[0::2], scores[1::2], *margins)


def _check(beta: float, loss_type: str, smoothing: float, rpo_alpha: float, divergence: str) -> None:
    check_beta(beta)
    check_known("loss_type", loss_type, DPO_LOSSES)
    check_smoothing(smoothing, loss_type)
    check_known("f_divergence_type", divergence, DIVERGENCES)
    if divergence != "reverse_kl" and loss_type not in OF_MARGINS:
        what = "model.f_divergence_type is {value!r}, but loss_type {loss_type!r} has only 'reverse_kl'"
        raise ConfigError(translate(what, value=divergence, loss_type=loss_type))
    check_weights(rpo_alpha=rpo_alpha)
    if loss_type in OF_BATCH:
        say_once(
            "loss_type {loss_type!r} compares the pairs of a batch with each other: how many a batch holds "
            "(batch_size, max_packed_length) changes the loss",
            logging.INFO,
            loss_type=loss_type,
        )
