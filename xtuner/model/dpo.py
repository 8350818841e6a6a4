"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290): a loss on pairs of answers.

samples      chosen 0, rejected 0, chosen 1, rejected 1, ...      neighbours in a pack, never separated
log-probs    of all supervised tokens, summed for each sample     by the model, and by the reference
reward       beta * (log-prob by the model - log-prob by the reference)
loss         -log sigmoid(reward of chosen - reward of rejected), the mean over the pairs of the update

The reference is the model with its adapter switched off. `label_smoothing` e takes labels to be wrong with
probability e: the loss is (1 - e) * loss + e * loss of the swapped pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.log import say_once
from xtuner.model.language_model import PackedLanguageModel
from xtuner.model.packed import Packed, to_device
from xtuner.model.passes import Pass
from xtuner.model.reference import AdapterOff
from xtuner.model.router import balance_weight
from xtuner.model.train_module import Outputs


class DPO(PackedLanguageModel):
    """A language model with LoRA that learns to prefer the chosen answer of each pair."""

    metrics = ("chosen_rewards", "rejected_rewards", "reward_acc", "reward_margin")
    better_if_larger = frozenset({"chosen_rewards", "reward_acc", "reward_margin"})

    def __init__(
        self,
        llm: Mapping[str, Any] | nn.Module,
        ref_llm: Any = None,
        beta: float = 0.1,
        loss_type: str = "sigmoid",
        label_smoothing: float = 0.0,
        lora: Any = None,
        peft_model: str | None = None,
        use_activation_checkpointing: bool | str | None = None,
        use_varlen_attn: bool = False,
        tokenizer: Any = None,
        max_position_embeddings: int | None = None,
    ):
        """`label_smoothing`: the assumed fraction of pairs with exchanged labels, below 0.5."""
        _check(ref_llm, loss_type, label_smoothing, has_adapter=lora is not None or peft_model is not None)
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
        self.label_smoothing = label_smoothing
        self._reference = AdapterOff(self.llm)
        if balance_weight(self.llm):
            say_once("DPO does not add the loss that balances experts, which the model's config asks for")

    def num_items(self, data: dict[str, Any]) -> int:
        """The number of pairs."""
        if "num_pairs" not in data:
            raise ConfigError(
                translate(
                    "train_dataloader: DPO trains on pairs of answers: set dataset = "
                    "dict(type=build_preference_dataset, ...) and "
                    "collate_fn = dict(type=preference_collate_fn)"
                )
            )
        return data["num_pairs"]

    def compute_loss(self, packed: Packed, num_items: int | Tensor | None) -> Outputs:
        todo = self.passes_of(packed, with_loss=True)
        with self._reference.active():
            reference = self._sums_by_sample(todo, packed)
        rewards = self.beta * (self._sums_by_sample(todo, packed) - reference)
        chosen, rejected = rewards[0::2], rewards[1::2]
        margins, wrong = chosen - rejected, self.label_smoothing
        losses = -(1 - wrong) * logsigmoid(margins) - wrong * logsigmoid(-margins)
        loss = losses.sum() / (len(margins) if num_items is None else num_items)
        size = 1 if self._sequence_group is None else self._sequence_group.size()
        # All sequence-parallel ranks have computed the whole loss. Their values are added, and so are their
        # gradients, each of which is of the rank's tokens.
        loss = loss - loss.detach() * (1 - 1 / size)
        values = chosen, rejected, (margins > 0).to(margins.dtype), margins
        sums = {n: v.detach().sum() / size for n, v in zip(self.metrics, values, strict=True)}
        return {"loss": loss, "sums": sums}

    def _sums_by_sample(self, todo: list[Pass], packed: Packed) -> Tensor:
        """The summed log-probability of the supervised tokens of each sample."""
        logprobs, positions = self.token_logprobs(todo)
        samples = np.searchsorted(packed.boundaries, positions, side="right") - 1
        zeros = torch.zeros(len(packed.boundaries) - 1, dtype=logprobs.dtype, device=logprobs.device)
        sums = zeros.index_add(0, to_device(samples, logprobs.device), logprobs)
        if self._sequence_group is None:
            return sums
        whole = sums.detach().clone()
        torch.distributed.all_reduce(whole, group=self._sequence_group)
        return sums + (whole - sums.detach())


def _check(ref_llm: Any, loss_type: str, label_smoothing: float, has_adapter: bool) -> None:
    if loss_type != "sigmoid":
        what = "model.loss_type is {loss_type!r}, but DPO has only 'sigmoid': set it, or leave it out"
        raise ConfigError(translate(what, loss_type=loss_type))
    if not 0 <= label_smoothing < 0.5:
        what = "model.label_smoothing is {value}, but must be at least 0 and below 0.5"
        raise ConfigError(translate(what, value=label_smoothing))
    if ref_llm is not None:
        raise ConfigError(
            translate("model.ref_llm: the reference is the model without its adapter: leave ref_llm out")
        )
    if not has_adapter:
        raise ConfigError(
            translate(
                "model.lora is not set, but the reference of DPO is the model with its adapter switched off: "
                "add lora=dict(type=LoraConfig, ...)"
            )
        )
