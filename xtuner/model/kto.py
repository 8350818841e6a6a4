"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306): single answers, good or bad.

samples      answers, or in turn answers and mismatched ones: the same prompt, an answer to another one
log-ratio    log-probability by the model - by the reference, of the supervised tokens of a sample
KL           mean log-ratio of the mismatched answers of this iteration, on all processes; at least 0
loss         weight * (1 - sigmoid(beta * (log-ratio - KL))) of a good answer
             weight * (1 - sigmoid(beta * (KL - log-ratio))) of a bad one, the mean over answers

The KL is estimated and has no gradient. Without mismatched answers it is taken as 0.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.log import say_once
from xtuner.model.packed import Packed
from xtuner.model.pairs import Answers, answers_of, check_beta, check_weights, shared_outputs
from xtuner.model.passes import to_device
from xtuner.model.preference_losses import kto_loss
from xtuner.model.reference import ReferencedModel
from xtuner.model.router import log_missing_balance
from xtuner.model.train_module import Outputs


@dataclasses.dataclass(frozen=True)
class Labelled(Packed):
    """Answers, or answers and mismatched ones in turn, and whether each answer is good."""

    desirable: Tensor = dataclasses.field(kw_only=True)


class KTO(ReferencedModel):
    """A language model that learns from single answers, each good or bad."""

    # "signed_rewards": rewards of good answers, and of bad ones with the other sign. The last three: means
    # over answers of their log-probability, of the entropy of a token, and of the number of tokens.
    metrics = ("signed_rewards", "reward_acc", "kl", "logps", "entropy", "length")
    better_if_larger = frozenset({"signed_rewards", "reward_acc"})

    def __init__(
        self,
        llm: Mapping[str, Any] | nn.Module,
        ref_llm: Mapping[str, Any] | nn.Module | None = None,
        beta: float = 0.1,
        desirable_weight: float = 1.0,
        undesirable_weight: float = 1.0,
        lora: Any = None,
        peft_model: str | None = None,
        use_activation_checkpointing: bool | str | None = None,
        use_varlen_attn: bool = False,
        tokenizer: Any = None,
        max_position_embeddings: int | None = None,
        stored_reference: bool = False,
    ):
        """The weights of good and of bad answers make up for their numbers.

        The paper keeps weight * number of good answers between 1 and 4/3 times that of bad ones.
        """
        check_beta(beta)
        check_weights(desirable_weight=desirable_weight, undesirable_weight=undesirable_weight)
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
        self.beta, self.weights = beta, (undesirable_weight, desirable_weight)
        self.keep_reference(llm, ref_llm, peft_model, tokenizer, max_position_embeddings, stored_reference)

    def num_items(self, data: dict[str, Any]) -> int:
        """The number of answers."""
        if "desirable" not in data:
            what = (
                "train_dataloader: {method} trains on single answers with labels: set dataset = "
                "dict(type=build_unpaired_dataset, ...) and collate_fn = dict(type=unpaired_collate_fn)"
            )
            raise ConfigError(translate(what, method=type(self).__name__))
        return len(data["desirable"])

    def with_labels(self, packed: Packed, data: Mapping[str, Any]) -> Labelled:
        desirable = torch.as_tensor(data["desirable"], device=self.device).bool()
        return Labelled(**vars(packed), desirable=desirable)

    def compute_loss(self, packed: Packed, num_items: int | Tensor | None) -> Outputs:
        assert isinstance(packed, Labelled)
        desirable, mismatched = packed.desirable, None
        if len(packed.boundaries) - 1 == 2 * len(desirable):
            packed, mismatched = every_second(packed, 0), every_second(packed, 1)
        kl = self._kl(mismatched)
        now, before = self._answers(packed, with_entropies=True)
        assert now.entropies is not None
        ratios = now.logprobs - before.logprobs
        bad, good = self.weights
        weights = bad + (good - bad) * desirable.to(ratios.dtype)
        losses = weights * kto_loss(ratios, desirable, kl.to(ratios.dtype), self.beta)
        signed = torch.where(desirable, ratios, -ratios) * self.beta
        values = (
            *(signed, (signed > 0).to(ratios.dtype), kl.expand(len(ratios))),
            *(now.logprobs, now.entropies / now.lengths.clamp(min=1), now.lengths),
        )
        named = dict(zip(self.metrics, values, strict=True))
        return shared_outputs(losses, named, num_items, self._sequence_group)

    def _answers(self, packed: Packed, with_entropies: bool = False) -> tuple[Answers, Answers]:
        """Log-probabilities by the model, and by the reference."""
        todo = self.passes_of(packed, with_loss=True)
        before = self.reference_answers(packed, todo)
        return answers_of(self, packed, todo, with_entropies), before

    @torch.no_grad()
    def _kl(self, mismatched: Packed | None) -> Tensor:
        if mismatched is None:
            say_once("KTO has no mismatched answers: the KL to the reference is taken as 0", logging.INFO)
            return torch.zeros((), device=self.device)
        now, before = self._answers(mismatched)
        ratios = now.logprobs - before.logprobs
        total = torch.stack([ratios.sum(), ratios.new_tensor(float(len(ratios)))])
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(total)
        return (total[0] / total[1]).clamp(min=0)


def every_second(packed: Packed, first: int) -> Packed:
    """The samples `first`, `first` + 2, ... of a batch, as a batch."""
    spans = list(itertools.pairwise(packed.boundaries))[first::2]
    index = np.concatenate([np.arange(start, end) for start, end in spans])
    moved = np.full(packed.boundaries[-1], -1)
    moved[index] = np.arange(len(index))
    positions = moved[packed.positions]
    return Packed(
        input_ids=packed.input_ids[to_device(index, packed.input_ids.device)],
        boundaries=[0, *itertools.accumulate(end - start for start, end in spans)],
        positions=positions[positions >= 0],
        targets=packed.targets[positions >= 0],
        reference=None if packed.reference is None else packed.reference[first::2],
    )
