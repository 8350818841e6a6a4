"""Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300): answers that the model itself
has sampled, each with an advantage.

samples      prompt + answer, several answers to each prompt; the tokens of the answers are supervised
advantage    of each answer: how much better its reward is than those of the other answers to the prompt
ratio        probability of a token now / when it was sampled
loss         -min(ratio * advantage, clip(ratio, 1 - epsilon, 1 + epsilon_high) * advantage)
             + beta * ratio * KL

loss_type    loss of an update                                                              num_items
dapo         the mean over all tokens (Yu et al. 2025, 2503.14476)                          tokens
grpo         the mean over answers of the mean over their tokens                            answers
dr_grpo      the sum over tokens / (answers * max_new_tokens) (Liu et al. 2025, 2503.20783) answers
gspo         as grpo, with one ratio for an answer, that of its mean token (2507.18071)     answers
cispo        -clip(ratio, at most 1 + epsilon_high) * advantage * log-probability, the ratio without gradient,
             the mean over all tokens (MiniMax 2025, 2506.13585)                            tokens

The KL divergence to the reference (reference.py) is that of the sampled tokens, exp(d) - d - 1 with
d = log-probability by the reference - by the model; with the token's ratio its gradient is that of the
divergence (DeepSeek-AI 2025, 2512.02556). Without `beta` there is no reference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.model.language_model import PackedLanguageModel
from xtuner.model.packed import Packed, loss_positions
from xtuner.model.pairs import check_known, check_weights, lengths_of, sum_by_sample
from xtuner.model.passes import Pass, to_device
from xtuner.model.reference import AdapterOff, ReferencedModel
from xtuner.model.router import log_missing_balance
from xtuner.model.train_module import Outputs, TrainModule

LOSSES = ("dapo", "grpo", "dr_grpo", "gspo", "cispo")
_OVER_TOKENS = ("dapo", "cispo")


@dataclasses.dataclass(frozen=True)
class Sampled(Packed):
    """Sampled answers: the advantage of each and, where weights have changed since, the log-probabilities
    that their tokens had, in the order of `positions`.
    """

    advantages: Tensor = dataclasses.field(kw_only=True)
    old_logprobs: Tensor | None = None
    max_new_tokens: int = 1
    temperature: float = 1.0  # of the distribution that the tokens are from


class GRPO(ReferencedModel):
    """A language model that learns from the rewards of its own answers.

    Metrics are means over what the loss is a mean over: tokens, or answers of the means of their tokens.
    "clip_share": the tokens without gradient because their ratio is clipped. "kl": with `beta`.
    """

    metrics: tuple[str, ...] = ("clip_share", "entropy")
    learns_from_rewards = True

    def __init__(
        self,
        llm: Mapping[str, Any] | nn.Module,
        ref_llm: Mapping[str, Any] | nn.Module | None = None,
        loss_type: str = "dapo",
        epsilon: float = 0.2,
        epsilon_high: float | None = None,
        beta: float = 0.0,
        lora: Any = None,
        peft_model: str | None = None,
        use_activation_checkpointing: bool | str | None = None,
        use_varlen_attn: bool = False,
        tokenizer: Any = None,
        max_position_embeddings: int | None = None,
    ):
        """`epsilon`: how far below 1 a ratio counts, `epsilon_high`: how far above, by default as far.

        `beta`: the weight of the KL divergence to the reference: `ref_llm`, by default the model before
        training.
        """
        check_known("loss_type", loss_type, LOSSES)
        epsilon_high = epsilon if epsilon_high is None else epsilon_high
        check_weights(beta=beta, epsilon=epsilon, epsilon_high=epsilon_high)
        if ref_llm is not None and not beta:
            what = "model.ref_llm is not used with beta = 0: give beta, such as 0.04, or leave out ref_llm"
            raise ConfigError(translate(what))
        super().__init__(
            llm,
            lora,
            peft_model,
            use_activation_checkpointing,
            use_varlen_attn,
            tokenizer,
            max_position_embeddings,
        )
        log_missing_balance(self.llm, type(self).__name__)
        self.loss_type, self.beta = loss_type, beta
        self.lowest, self.highest = 1 - epsilon, 1 + epsilon_high
        self._without_dropout = AdapterOff(self.llm, uses_adapter=False)
        self.reference = None
        if beta:
            self.metrics = (*self.metrics, "kl")
            self.keep_reference(llm, ref_llm, peft_model, tokenizer, max_position_embeddings)

    def num_items(self, data: dict[str, Any]) -> int:
        """The number of tokens or answers in the mean."""
        over_tokens = self.loss_type in _OVER_TOKENS
        return len(loss_positions(data)[0]) if over_tokens else len(data["advantages"])

    def with_labels(self, packed: Packed, data: Mapping[str, Any]) -> Sampled:
        return Sampled(
            **vars(packed),
            advantages=torch.as_tensor(data["advantages"], device=self.device),
            old_logprobs=data.get("old_logprobs"),
            max_new_tokens=data.get("max_new_tokens", 1),
            temperature=data.get("temperature", 1.0),
        )

    def outputs_of(self, packed: Packed, data: dict[str, Any], mode: str) -> Any:
        """As every language model's; in mode "sampled" the log-probabilities of the answers' tokens, without
        gradient and dropout, in the order of the batch.
        """
        if mode != "sampled":
            return super().outputs_of(packed, data, mode)
        with self._without_dropout.active():
            todo = self.passes_of(packed, with_loss=True)
            return self._logprobs(self, packed, todo, data.get("temperature", 1.0))[0]

    def compute_loss(self, packed: Packed, num_items: int | Tensor | None) -> Outputs:
        assert isinstance(packed, Sampled)
        todo = self.passes_of(packed, with_loss=True)
        reference = self._by_reference(packed, todo) if self.beta else None
        now, entropies = self._logprobs(self, packed, todo, packed.temperature, with_entropies=True)
        samples = np.searchsorted(packed.boundaries, packed.positions, side="right") - 1
        of_token = to_device(samples, now.device)
        lengths = lengths_of(packed, now)[of_token]
        advantages = packed.advantages.to(now.dtype)[of_token]
        old = now.detach() if packed.old_logprobs is None else packed.old_logprobs.to(now.dtype)
        log_ratios = now - old
        ratios = log_ratios.exp()
        if self.loss_type == "gspo":
            of_answers = sum_by_sample(log_ratios, packed.positions, packed, None)[of_token] / lengths
            losses, is_clipped = self._losses(of_answers.exp(), advantages, now)
        else:
            losses, is_clipped = self._losses(ratios, advantages, now)
        values = {"clip_share": is_clipped.to(now.dtype), "entropy": entropies}
        if reference is not None:
            difference = reference - now
            values["kl"] = difference.exp() - difference - 1
            losses = losses + self.beta * ratios * values["kl"]
        over_tokens = self.loss_type in _OVER_TOKENS
        shares = torch.ones_like(now) if over_tokens else 1 / lengths
        weights = torch.full_like(now, 1 / packed.max_new_tokens) if self.loss_type == "dr_grpo" else shares
        if num_items is None:
            num_items = max(1, len(now) if over_tokens else len(packed.advantages))
        sums = {name: (shares * values[name].detach()).sum() for name in self.metrics}
        return {"loss": (weights * losses).sum() / num_items, "sums": sums}

    def _losses(self, ratios: Tensor, advantages: Tensor, logprobs: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each token, and whether it is clipped."""
        is_above = (ratios > self.highest) & (advantages > 0)
        if self.loss_type == "cispo":
            weights = ratios.detach().clamp(max=self.highest)
            return -weights * advantages * logprobs, is_above
        clipped = ratios.clamp(self.lowest, self.highest)
        losses = -torch.minimum(ratios * advantages, clipped * advantages)
        return losses, is_above | ((ratios < self.lowest) & (advantages < 0))

    def _by_reference(self, packed: Sampled, todo: Sequence[Pass]) -> Tensor:
        """The log-probabilities by the reference, in the order of the batch."""
        if self.reference is None:
            with self._adapter_off.active():
                return self._logprobs(self, packed, todo, packed.temperature)[0]
        with torch.no_grad():
            own = self.reference.passes_of(packed, with_loss=True)
            return self._logprobs(self.reference, packed, own, packed.temperature)[0]

    @staticmethod
    def _logprobs(
        model: PackedLanguageModel,
        packed: Packed,
        todo: Sequence[Pass],
        temperature: float,
        with_entropies: bool = False,
    ) -> tuple[Tensor, Any]:
        """Log-probabilities of the supervised tokens by `model`, and entropies, in the order of the batch."""
        tokens = model.token_logprobs(todo, with_entropies, temperature=temperature)
        order = np.argsort(tokens.positions, kind="stable")
        assert np.array_equal(tokens.positions[order], packed.positions)
        if np.array_equal(order, np.arange(len(order))):
            return tokens.logprobs, tokens.entropies
        index = to_device(order, tokens.logprobs.device)
        entropies = None if tokens.entropies is None else tokens.entropies[index]
        return tokens.logprobs[index], entropies

    def enable_sequence_parallel(self, group: Any) -> None:
        TrainModule.enable_sequence_parallel(self, group)
