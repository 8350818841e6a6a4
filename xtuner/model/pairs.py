"""A language model that trains on pairs of answers: the log-probabilities of both, and what is reported.

samples    chosen 0, rejected 0, chosen 1, rejected 1, ...     neighbours in a pack, never apart
answers    log-probability of the supervised tokens of each sample, `[2 pairs]`, and how many these are
losses     one for each pair; the loss of an update is their mean over all of its pairs
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.model.language_model import PackedLanguageModel, TokenLogprobs
from xtuner.model.packed import Packed, to_device
from xtuner.model.passes import Pass
from xtuner.model.preference_losses import SMOOTHED
from xtuner.model.router import log_missing_balance
from xtuner.model.train_module import Outputs


class Answers(NamedTuple):
    """Sums over the supervised tokens of each sample, `[samples]`."""

    logprobs: Tensor
    lengths: Tensor  # the number of these tokens
    entropies: Tensor | None = None  # of the model's distributions, without gradient
    tokens: TokenLogprobs | None = None  # of this process's tokens

    @property
    def means(self) -> Tensor:
        """The log-probability of a token; 0 for a sample without supervised tokens."""
        return self.logprobs / self.lengths.clamp(min=1)


REWARDS = ("chosen_rewards", "rejected_rewards", "reward_acc", "reward_margin")


class PairLanguageModel(PackedLanguageModel):
    """A language model that learns to prefer the chosen answer of each pair.

    "chosen_logps", "rejected_logps": the log-probability of an answer, or of its mean token where the rewards
    are of that. "entropy": the mean over the tokens of both answers.
    """

    metrics: tuple[str, ...] = (
        *REWARDS, "chosen_logps", "rejected_logps", "entropy", "chosen_length", "rejected_length",
    )  # fmt: skip
    better_if_larger = frozenset({"chosen_rewards", "reward_acc", "reward_margin", "chosen_logps"})

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        log_missing_balance(self.llm, type(self).__name__)

    def num_items(self, data: dict[str, Any]) -> int:
        """The number of pairs."""
        return num_pairs(data, type(self).__name__)

    def compute_loss(self, packed: Packed, num_items: int | Tensor | None) -> Outputs:
        losses, values = self.losses(packed)
        return shared_outputs(losses, values, num_items, self._sequence_group)

    @abstractmethod
    def losses(self, packed: Packed) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of each pair, and the value of each metric for each pair."""


def answers_of(
    model: PackedLanguageModel,
    packed: Packed,
    todo: Sequence[Pass] | None = None,
    with_entropies: bool = False,
) -> Answers:
    """The samples' log-probabilities by `model`, whose passes are `todo`.

    Sequence-parallel ranks all have those of whole samples.
    """
    todo = model.passes_of(packed, with_loss=True) if todo is None else todo
    tokens = model.token_logprobs(todo, with_entropies)
    lengths = lengths_of(packed, tokens.logprobs)
    if tokens.entropies is None:
        sums = sum_by_sample(tokens.logprobs, tokens.positions, packed, model._sequence_group)
        return Answers(sums, lengths, tokens=tokens)
    both = torch.stack([tokens.logprobs, tokens.entropies], 1)
    logprobs, entropies = sum_by_sample(both, tokens.positions, packed, model._sequence_group).unbind(1)
    return Answers(logprobs, lengths, entropies.detach(), tokens)


def log_ratio_squares(now: Answers, before: Answers, packed: Packed, group: Any) -> Tensor:
    """Half the square of the log-ratio of each token, summed for each sample, without gradient.

    An estimate of the KL divergence to the reference that is never below 0, and finite where the model has
    given a token up (Schulman's k2; k3, which is exact on the model's own samples, has exp of the ratio).
    """
    assert now.tokens is not None
    assert before.tokens is not None
    own, other = (to_device(t.positions, t.logprobs.device) for t in (now.tokens, before.tokens))
    # The reference may run its samples in another order, or another part of the sequence.
    by_position = before.tokens.logprobs.new_zeros(len(packed.input_ids))
    by_position[other] = before.tokens.logprobs.detach()
    if group is not None:
        torch.distributed.all_reduce(by_position, group=group)
    halves = (now.tokens.logprobs.detach() - by_position[own]) ** 2 / 2
    return sum_by_sample(halves, now.tokens.positions, packed, group)


def sum_by_sample(values: Tensor, positions: np.ndarray, packed: Packed, group: Any) -> Tensor:
    """The sum for each sample of the `values` at `positions` of the batch; `group` holds parts of them."""
    samples = np.searchsorted(packed.boundaries, positions, side="right") - 1
    zeros = values.new_zeros(len(packed.boundaries) - 1, *values.shape[1:])
    sums = zeros.index_add(0, to_device(samples, values.device), values)
    if group is None:
        return sums
    whole = sums.detach().clone()
    torch.distributed.all_reduce(whole, group=group)
    return sums + (whole - sums.detach())


def lengths_of(packed: Packed, like: Tensor) -> Tensor:
    """The number of supervised tokens of each sample, with the precision and on the device of `like`."""
    samples = np.searchsorted(packed.boundaries, packed.positions, side="right") - 1
    counts = np.bincount(samples, minlength=len(packed.boundaries) - 1)
    return to_device(counts, like.device).to(like.dtype)


def num_pairs(data: Mapping[str, Any], method: str) -> int:
    """The number of pairs in a batch; ConfigError, which names the `method`, where it has none."""
    if "num_pairs" not in data:
        raise ConfigError(
            translate(
                "train_dataloader: {method} trains on pairs of answers: set dataset = "
                "dict(type=build_preference_dataset, ...) and "
                "collate_fn = dict(type=preference_collate_fn)",
                method=method,
            )
        )
    return data["num_pairs"]


def answer_metrics(rewards: Tensor, answers: Answers, of_means: bool = False) -> dict[str, Tensor]:
    """The metrics of every pair, from the rewards of its answers and their log-probabilities."""
    chosen, rejected = rewards[0::2], rewards[1::2]
    right = (chosen > rejected).to(chosen.dtype)
    logps = answers.means if of_means else answers.logprobs
    values = (
        *(chosen, rejected, right, chosen - rejected),
        *(logps[0::2], logps[1::2]),
        of_both(answers.entropies, answers.lengths),
        *(answers.lengths[0::2], answers.lengths[1::2]),
    )
    return dict(zip(PairLanguageModel.metrics, values, strict=True))


def of_both(sums: Tensor | None, lengths: Tensor) -> Tensor:
    """The mean over the tokens of both answers of each pair, from sums over the tokens of each answer."""
    assert sums is not None
    return (sums[0::2] + sums[1::2]) / (lengths[0::2] + lengths[1::2]).clamp(min=1)


def shared_outputs(
    losses: Tensor, values: Mapping[str, Tensor], num_items: int | Tensor | None, group: Any
) -> Outputs:
    """`Outputs` of the items' losses and metrics; `group` are sequence-parallel ranks, or None."""
    loss = losses.sum() / (len(losses) if num_items is None else num_items)
    size = 1 if group is None else group.size()
    # Sequence-parallel ranks have all computed the whole loss. Their values are added, and so are their
    # gradients, each of its own tokens' part.
    loss = loss - loss.detach() * (1 - 1 / size)
    return {"loss": loss, "sums": {name: value.detach().sum() / size for name, value in values.items()}}


def check_beta(beta: float) -> None:
    """ConfigError if `beta` is not above 0."""
    if not beta > 0:
        what = "model.beta is {value}, but must be above 0: the usual value is 0.1"
        raise ConfigError(translate(what, value=beta))


def check_smoothing(label_smoothing: float, loss_type: str = "sigmoid") -> None:
    """ConfigError if `label_smoothing` is no fraction below a half, or one that `loss_type` does not have."""
    if not 0 <= label_smoothing < 0.5:
        what = "model.label_smoothing is {value}, but must be at least 0 and below 0.5"
        raise ConfigError(translate(what, value=label_smoothing))
    if label_smoothing and loss_type not in SMOOTHED:
        what = "model.label_smoothing is {value}, but loss_type {loss_type!r} has none: set it to 0"
        raise ConfigError(translate(what, value=label_smoothing, loss_type=loss_type))


def check_known(name: str, value: str, known: Any) -> None:
    """ConfigError if `model.<name>` is none of `known`."""
    if value not in known:
        what = "model.{name} is {value!r}, but must be one of: {known}"
        raise ConfigError(translate(what, name=name, value=value, known=", ".join(known)))


def check_weights(**weights: float) -> None:
    """ConfigError if one of `weights`, by their names in the config's model, is below 0."""
    for name, value in weights.items():
        if value < 0:
            what = "model.{name} is {value}, but must be at least 0"
            raise ConfigError(translate(what, name=name, value=value))
