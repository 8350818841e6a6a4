"""The losses on preferences as their papers have them, in plain torch, for tests to compare with."""

import contextlib
import itertools

import pytest
import torch


def sig(x):
    return 1 / (1 + torch.exp(-x))


# c, r: log-ratios of chosen and rejected, [pairs]; b: beta; e: label smoothing.
DPO = {
    "sigmoid": lambda c, r, b, e: -(1 - e) * sig(b * (c - r)).log() - e * sig(b * (r - c)).log(),
    "robust": lambda c, r, b, e: (
        (-(1 - e) * sig(b * (c - r)).log() + e * sig(b * (r - c)).log()) / (1 - 2 * e)
    ),
    "hinge": lambda c, r, b, e: torch.where(b * (c - r) < 1, 1 - b * (c - r), 0 * c),
    "ipo": lambda c, r, b, e: (c - r - 1 / (2 * b)) ** 2,
    "kto_pair": lambda c, r, b, e: (
        0.5 * (1 - sig(b * (c - max(r.mean(), 0 * r.mean()))))
        + 0.5 * (1 - sig(b * (max(c.mean(), 0 * c.mean()) - r)))
    ),
    "sppo_hard": lambda c, r, b, e: (c - 1 / (2 * b)) ** 2 + (r + 1 / (2 * b)) ** 2,
    "nca_pair": lambda c, r, b, e: (
        -sig(b * c).log() - 0.5 * (1 - sig(b * c)).log() - 0.5 * (1 - sig(b * r)).log()
    ),
    "exo_pair": lambda c, r, b, e: (
        sig(b * (c - r)) * (sig(b * (c - r)) / (1 - (e or 1e-3))).log()
        + sig(b * (r - c)) * (sig(b * (r - c)) / (e or 1e-3)).log()
    ),
    "aot_pair": lambda c, r, b, e: DPO["sigmoid"](c.sort()[0], r.sort()[0], b, e),
    "apo_zero": lambda c, r, b, e: 1 - sig(b * c) + sig(b * r),
    "apo_down": lambda c, r, b, e: sig(b * c) + 1 - sig(b * (c - r)),
    "discopop": lambda c, r, b, e: (
        (1 - sig(b * (c - r) / 0.05)) * -sig(b * (c - r)).log()
        + sig(b * (c - r) / 0.05) * torch.exp(-b * (c - r))
    ),
}
DPO["aot_unpaired"] = DPO["aot_pair"]
SMOOTHED = {"sigmoid", "robust", "exo_pair", "aot", "aot_pair", "aot_unpaired"}


def f_prime(log_ratio, name, alpha=0.5):
    """The derivative of f at the ratio."""
    t = log_ratio.exp()
    return {
        "reverse_kl": lambda: t.log(),
        "forward_kl": lambda: 1 - 1 / t,
        "js_divergence": lambda: (2 * t / (1 + t)).log(),
        "alpha_divergence": lambda: (t ** (alpha - 1) - 1) / (alpha - 1),
    }[name]()


@contextlib.contextmanager
def exact_norms():
    """Norms of Llama in the precision of their input; transformers has them in fp32."""

    def forward(norm, x):
        return torch.nn.functional.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.models.llama.modeling_llama.LlamaRMSNorm.forward", forward)
        yield


def logprobs(model, ids, labels):
    """The log-probability of each supervised token, by stock code."""
    logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].log_softmax(-1)
    supervised = labels[1:] != -100
    return logits[supervised].gather(1, labels[1:][supervised, None])[:, 0]


def samples(items):
    """Ids and labels of every sample of the packs, each alone."""
    for item in items:
        ids, labels = (torch.from_numpy(item[name]) for name in ("input_ids", "labels"))
        for start, end in itertools.pairwise(item["cumulative_len"]):
            yield ids[start:end], labels[start:end]


def sums(model, items):
    """The log-probability of each sample and the number of its supervised tokens, `[samples]` each."""
    found = [logprobs(model, *sample) for sample in samples(items)]
    return torch.stack([x.sum() for x in found]), torch.tensor([len(x) for x in found]).double()


def logits(model, ids, labels):
    """The logits that predict each supervised token, by stock code."""
    found = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
    return found[labels[1:] != -100]


@torch.no_grad()
def entropies(model, ids, labels):
    """The entropy of the distribution of each supervised token."""
    return torch.distributions.Categorical(logits=logits(model, ids, labels)).entropy()


@torch.no_grad()
def answer_metrics(model, items, means=False):
    """Of each pair: log-probabilities of chosen and rejected, entropy, lengths, as TRL's trainers log them.

    TRL adds up log-probabilities, or takes their means where the loss is of means (IPO, SimPO, ORPO), and has
    entropy -sum p log p at answer tokens.
    """
    spread = [entropies(model, *sample) for sample in samples(items)]
    logps, lengths = sums(model, items)
    logps = logps / lengths if means else logps
    of_pairs = [torch.cat(pair).mean() for pair in zip(spread[0::2], spread[1::2], strict=True)]
    return [logps[0::2], logps[1::2], torch.stack(of_pairs), lengths[0::2], lengths[1::2]]


@torch.no_grad()
def half_squares(model, base, items):
    """Half the mean squared log-ratio of the tokens of each pair."""
    ratios = [logprobs(model, *sample) - logprobs(base, *sample) for sample in samples(items)]
    pairs = zip(ratios[0::2], ratios[1::2], strict=True)
    return torch.stack([torch.cat(pair).square().mean() / 2 for pair in pairs])
