"""Losses on preferences: pure functions of log-probabilities, one value for each pair of answers.

    log-probability    of an answer's supervised tokens together, or their mean where a loss says so
    log-ratio          log-probability by the model - log-probability by the reference
    score              f'(ratio), which is the log-ratio for the usual divergence (see `score`)
    losses             [pairs], the mean of which is the loss of an update

`beta` says how far the model may go from the reference: the smaller, the farther.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

# The log of the largest number that a ratio of probabilities may be: exp of more overflows in fp32.
_LARGEST = 80.0
# The temperature of the losses that DiscoPOP mixes, and the label noise that EXO takes at least.
_DISCOPOP_TEMPERATURE = 0.05
_EXO_SMOOTHING = 1e-3
# Below this distance from a bound its barrier continues as a straight line.
_NEAR = 1e-2


class Scores(NamedTuple):
    """What the losses of DPO are functions of, `[pairs]` each."""

    chosen: Tensor
    rejected: Tensor
    policy: Tensor  # log-probability of chosen - of rejected, by the model
    reference: Tensor  # the same by the reference


def score(log_ratio: Tensor, divergence: str = "reverse_kl", alpha: float = 0.5) -> Tensor:
    """f'(ratio), for the f-divergence to the reference (Wang et al. 2023, 2309.16240); 0 where both agree.

    `alpha`: of the alpha-divergence, whose limits are the reverse KL at 1 and the forward KL at 0.
    """
    if divergence == "js_divergence":
        return logsigmoid(log_ratio) + math.log(2)
    power = {"reverse_kl": 0.0, "forward_kl": -1.0, "alpha_divergence": alpha - 1}[divergence]
    if power == 0:
        return log_ratio
    return (power * log_ratio).clamp(max=_LARGEST).expm1() / power


DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")


def _log_loss(logits: Tensor, smoothing: float) -> Tensor:
    return -(1 - smoothing) * logsigmoid(logits) - smoothing * logsigmoid(-logits)


def _sigmoid(s: Scores, beta: float, smoothing: float) -> Tensor:
    """Rafailov et al. 2023 (2305.18290); with smoothing, Mitchell's conservative DPO."""
    return _log_loss(beta * (s.chosen - s.rejected), smoothing)


def _robust(s: Scores, beta: float, smoothing: float) -> Tensor:
    """Ray Chowdhury et al. 2024 (2403.00409): its mean is that without noise if labels flip so often."""
    logits = beta * (s.chosen - s.rejected)
    losses = -(1 - smoothing) * logsigmoid(logits) + smoothing * logsigmoid(-logits)
    return losses / (1 - 2 * smoothing)


def _hinge(s: Scores, beta: float, smoothing: float) -> Tensor:
    """Zhao et al. 2023 (SLiC, 2305.10425), normalised as by Liu et al. 2023 (RSO, 2309.06657)."""
    return relu(1 - beta * (s.chosen - s.rejected))


def _ipo(s: Scores, beta: float, smoothing: float) -> Tensor:
    """Azar et al. 2023 (2310.12036), of the mean log-probabilities of tokens."""
    return (s.chosen - s.rejected - 1 / (2 * beta)) ** 2


def _kto_pair(s: Scores, beta: float, smoothing: float) -> Tensor:
    """Ethayarajh et al. 2024 (2402.01306) on pairs: the KL of one side is estimated by the other side."""
    kl_chosen, kl_rejected = (x.mean().clamp(min=0) for x in (s.chosen, s.rejected))
    of_chosen = 1 - torch.sigmoid(beta * (s.chosen - kl_rejected))
    of_rejected = 1 - torch.sigmoid(beta * (kl_chosen - s.rejected))
    return (of_chosen + of_rejected) / 2


def _sppo_hard(s: Scores, beta: float, smoothing: float) -> Tensor:
    """Wu et al. 2024 (2405.00675), with a chosen answer that always wins."""
    return (s.chosen - 0.5 / beta) ** 2 + (s.rejected + 0.5 / beta) ** 2


def _nca_pair(s: Scores, beta: float, smoothing: float) -> Tensor:
    """Chen et al. 2024 (2402.05369)."""
    chosen, rejected = beta * s.chosen, beta * s.rejected
    return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)


def _exo_pair(s: Scores, beta: float, smoothing: float) -> Tensor:
    """Ji et al. 2024 (2402.00856): the reverse KL to the preference with `smoothing`, which is above 0."""
    logits, noise = beta * (s.chosen - s.rejected), smoothing or _EXO_SMOOTHING
    right = torch.sigmoid(logits) * (logsigmoid(logits) - math.log(1 - noise))
    return right + torch.sigmoid(-logits) * (logsigmoid(-logits) - math.log(noise))


def _aot(s: Scores, beta: float, smoothing: float) -> Tensor:
    """Melnyk et al. 2024 (2406.05882): the sorted margins of the model against those of the reference."""
    return _log_loss(beta * (s.policy.sort().values - s.reference.sort().values), smoothing)


def _aot_pair(s: Scores, beta: float, smoothing: float) -> Tensor:
    """The same: the sorted chosen answers against the sorted rejected ones."""
    return _log_loss(beta * (s.chosen.sort().values - s.rejected.sort().values), smoothing)


def _apo_zero(s: Scores, beta: float, smoothing: float) -> Tensor:
    """D'Oosterlinck et al. 2024 (2408.06266): chosen answers up, rejected ones down."""
    return 1 - torch.sigmoid(beta * s.chosen) + torch.sigmoid(beta * s.rejected)


def _apo_down(s: Scores, beta: float, smoothing: float) -> Tensor:
    """The same, for chosen answers that are worse than the model's own: both down, rejected ones more."""
    return torch.sigmoid(beta * s.chosen) + 1 - torch.sigmoid(beta * (s.chosen - s.rejected))


def _discopop(s: Scores, beta: float, smoothing: float) -> Tensor:
    """Lu et al. 2024 (2406.08414): a mixture of the logistic and the exponential loss."""
    logits = beta * (s.chosen - s.rejected)
    mixed = torch.sigmoid(logits / _DISCOPOP_TEMPERATURE)
    return -logsigmoid(logits) * (1 - mixed) + (-logits).clamp(max=_LARGEST).exp() * mixed


# Scores, beta, smoothing -> losses.
DPO_LOSSES: dict[str, Callable[[Scores, float, float], Tensor]] = {
    "sigmoid": _sigmoid,
    "robust": _robust,
    "hinge": _hinge,
    "ipo": _ipo,
    "kto_pair": _kto_pair,
    "sppo_hard": _sppo_hard,
    "nca_pair": _nca_pair,
    "exo_pair": _exo_pair,
    "aot": _aot,
    "aot_pair": _aot_pair,
    "aot_unpaired": _aot_pair,  # the name in later versions of TRL
    "apo_zero": _apo_zero,
    "apo_down": _apo_down,
    "discopop": _discopop,
}
# Those with label smoothing, those of mean log-probabilities, those in which the pairs of a batch meet, and
# those of the margin alone, which may be one of scores of any divergence.
SMOOTHED = frozenset({"sigmoid", "robust", "exo_pair", "aot", "aot_pair", "aot_unpaired"})
OF_MEANS = frozenset({"ipo"})
OF_BATCH = frozenset({"kto_pair", "aot", "aot_pair", "aot_unpaired"})
OF_MARGINS = frozenset({"sigmoid", "robust", "hinge", "ipo", "exo_pair", "discopop"})


def log_odds(mean_logprobs: Tensor) -> Tensor:
    """log(p / (1 - p)) of the probabilities p whose logarithms are given, below 1 by rounding at least."""
    log_p = mean_logprobs.clamp(max=-torch.finfo(mean_logprobs.dtype).eps)
    # Near 1 the first is exact, near 0 the second.
    log_rest = torch.where(log_p > -math.log(2), (-torch.expm1(log_p)).log(), torch.log1p(-log_p.exp()))
    return log_p - log_rest


def cpo_loss(margins: Tensor, beta: float, loss_type: str = "sigmoid", smoothing: float = 0.0) -> Tensor:
    """Losses of the margins of log-probabilities without a reference (Xu et al. 2024, 2401.08417)."""
    zero = torch.zeros_like(margins)
    return DPO_LOSSES[loss_type](Scores(margins, zero, margins, zero), beta, smoothing)


CPO_LOSSES = ("sigmoid", "hinge", "ipo")


def _ranking(differences: Tensor) -> Tensor:
    """Bradley and Terry: -log of the probability that the chosen answer wins."""
    return -logsigmoid(differences)


def _focal(differences: Tensor) -> Tensor:
    """Cai et al. 2024 (InternLM2, 2403.17297): pairs that are easy to rank count less."""
    ease = 2 * relu(torch.sigmoid(differences) - 0.5)
    return -((1 - ease) ** 2) * logsigmoid(differences)


# Rewards of chosen - rewards of rejected -> losses.
REWARD_LOSSES: dict[str, Callable[[Tensor], Tensor]] = {"ranking": _ranking, "focal": _focal}


def _log_barrier(rewards: Tensor, bound: float = 5.0) -> Tensor:
    """Cai et al. 2024: rewards stay within -5 and 5; close to and beyond these the penalty is a line."""
    return -_log(rewards + bound) - _log(bound - rewards)


def _log(x: Tensor) -> Tensor:
    """The logarithm, continued below `_NEAR` by its tangent."""
    return torch.where(x > _NEAR, x.clamp(min=_NEAR).log(), math.log(_NEAR) + (x - _NEAR) / _NEAR)


# Rewards -> penalties.
PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {
    "log_barrier": _log_barrier,
    "L2": torch.square,
    "none": torch.zeros_like,
}


def kto_loss(log_ratios: Tensor, desirable: Tensor, kl: Tensor, beta: float) -> Tensor:
    """Ethayarajh et al. 2024 (2402.01306): losses of single answers, given the KL to the reference."""
    differences = log_ratios - kl
    return 1 - torch.sigmoid(beta * torch.where(desirable, differences, -differences))
