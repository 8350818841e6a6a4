"""Log-probabilities of texts after others, by a model that is loaded for this.

Samples of similar length are packed and run together; no sample sees another. A long prefix that several
questions share, such as the examples before them, is read once:

prefix      1 7 7 7                      a KV cache, of which each row gets a copy
rows        2 9 3                        one forward pass
            5 9 9                        padding after a row, which no token of it sees
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from xtuner.evaluation.text.scored import Scored, TextEncoder
from xtuner.generation.cached_forward import CachedForward
from xtuner.generation.growing_cache import can_repeat
from xtuner.generation.limits import context_length, stretches_positions
from xtuner.model.adapters import virtual_tokens
from xtuner.model.language_model import PackedLanguageModel
from xtuner.model.packed import Packed, to_device
from xtuner.model.passes import Pass
from xtuner.model.sft import SupervisedFinetune


class Likelihood(TextEncoder):
    """A language model that scores texts; `context` is the number of tokens that it reads at most."""

    def __init__(self, model: Any, tokenizer: Any, scorer: PackedLanguageModel | None = None) -> None:
        """`scorer`: what trains `model`, if that is so."""
        # peft's own forward puts virtual tokens before each row, which cannot begin with a cache.
        shares_prefixes = not stretches_positions(model) and not virtual_tokens(model)
        super().__init__(tokenizer, context_length(model), shares_prefixes)
        self._model = scorer or SupervisedFinetune(llm=model, use_activation_checkpointing=False)
        self._model.eval()
        self._forward = CachedForward(model)

    @torch.no_grad()
    def read(self, prefix: Sequence[int]) -> Any:
        """The KV cache of a prefix, or None if there is none or rows cannot share it."""
        if not (prefix and self._keeps_prefixes):
            return None
        ids = torch.tensor([list(prefix)], device=self._model.device)
        _, cache = self._forward({"input_ids": ids}, None)
        self._keeps_prefixes = can_repeat(cache)
        return cache if self._keeps_prefixes else None

    @torch.no_grad()
    def score(self, samples: Sequence[Scored], cache: Any = None) -> list[list[float]]:
        """The log-probabilities of the texts of each sample, which run together.

        `cache`: of the prefix that all of them share, from `read`.
        """
        todo = self._packed(samples) if cache is None else [self._rows(samples, cache)]
        found = self._model.token_logprobs(todo)
        # Samples that ran apart come in another order.
        order = np.argsort(found.positions, kind="stable")
        logprobs = found.logprobs.double().cpu().numpy()[order]
        return [[float(part.sum()) for part in parts] for parts in _by_text(logprobs, samples)]

    @torch.no_grad()
    def score_greedy(self, samples: Sequence[Scored]) -> list[list[tuple[float, bool]]]:
        """The same, each with whether all tokens of the text are the likeliest ones."""
        found = self._model.token_logprobs(self._packed(samples), with_likeliest=True)
        assert found.likeliest is not None
        order = np.argsort(found.positions, kind="stable")
        logprobs = found.logprobs.double().cpu().numpy()[order]
        is_likeliest = found.likeliest.cpu().numpy()[order] == _targets(samples)
        return [
            [(float(part.sum()), bool(same.all())) for part, same in zip(parts, sames, strict=True)]
            for parts, sames in zip(_by_text(logprobs, samples), _by_text(is_likeliest, samples), strict=True)
        ]

    def _packed(self, samples: Sequence[Scored]) -> list[Pass]:
        boundaries = np.cumsum([0, *(len(sample.ids) for sample in samples)])
        ids = torch.tensor([token for sample in samples for token in sample.ids])
        positions = [
            np.asarray(sample.positions, np.int64) + start
            for sample, start in zip(samples, boundaries, strict=False)
        ]
        packed = Packed(
            ids.to(self._model.device), boundaries.tolist(), np.concatenate(positions), _targets(samples)
        )
        return self._model.passes_of(packed, with_loss=True)

    def _rows(self, samples: Sequence[Scored], cache: Any) -> Pass:
        """One pass with a row for each sample: what follows the prefix, and padding."""
        parts = [list(sample.ids[sample.num_shared :]) for sample in samples]
        width = max(map(len, parts))
        # Padding of known tokens: transformers warns of the tokenizer's own.
        ids = np.array([part + part[-1:] * (width - len(part)) for part in parts], np.int64)
        columns = np.concatenate([np.asarray(s.positions, np.int64) - s.num_shared for s in samples])
        rows = np.repeat(np.arange(len(samples)), [len(sample.positions) for sample in samples])
        own = copy.deepcopy(cache)
        own.batch_repeat_interleave(len(samples))
        inputs = {
            "input_ids": to_device(ids, self._model.device),
            self._forward.cache_name: own,
            "use_cache": True,
        }
        index = np.arange(ids.size).reshape(ids.shape)
        return Pass(inputs, index, rows, columns, _targets(samples))


def _by_text(values: np.ndarray, samples: Sequence[Scored]) -> Iterator[list[np.ndarray]]:
    """Values of all targets -> those of the texts of each sample."""
    start = 0
    for sample in samples:
        own = values[start : start + len(sample.targets)]
        start += len(sample.targets)
        yield np.split(own, list(sample.ends)[:-1])


def _targets(samples: Sequence[Scored]) -> np.ndarray:
    return np.array([token for sample in samples for token in sample.targets], np.int64)
