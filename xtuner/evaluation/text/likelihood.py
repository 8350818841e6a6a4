"""Log-probabilities of texts after others.

prompt "2 + 2 ="   choices " 4"  " 5"      ids     1 29 31  4 | 1 29 31  5
one sample for choices that differ         scored        2             2        positions that predict them
in their last token alone:                 ids     1 29 31                      scored  2 2, targets 4 5

Samples of similar length are packed and run together; no sample sees another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from xtuner.errors import DataError, ModelError
from xtuner.generation.limits import context_length
from xtuner.language import translate
from xtuner.model.packed import Packed
from xtuner.model.sft import SupervisedFinetune


@dataclass(frozen=True)
class Scored:
    """Ids of a text; the tokens `targets` are scored after `positions`; `ends` divides them into texts."""

    ids: Sequence[int]
    positions: Sequence[int]
    targets: Sequence[int]
    ends: Sequence[int]


class Likelihood:
    """A language model that scores texts; `context` is the number of tokens that it reads at most."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.context = context_length(model)
        self.tokenizer = tokenizer
        self._model = SupervisedFinetune(llm=model, use_activation_checkpointing=False).eval()
        self.num_cut = 0

    def encode(self, text: str) -> list[int]:
        """The ids of a text, with the tokenizer's special tokens."""
        return list(self.tokenizer(text)["input_ids"])

    def after(self, prompt: str, texts: Sequence[str]) -> list[Scored]:
        """What scores each of `texts` after `prompt`; one sample for those of one token."""
        kept = prompt.rstrip()
        spaces = prompt[len(kept) :]
        start = len(self.encode(kept))
        encoded = [self.encode(kept + spaces + text) for text in texts]
        shared = encoded[0][:start]
        if all(len(ids) == start + 1 and ids[:start] == shared for ids in encoded):
            last = [start - 1] * len(texts)
            one = Scored(shared, last, [ids[-1] for ids in encoded], range(1, len(texts) + 1))
            return [self._cut(one)]
        found = []
        for ids in encoded:
            scored = range(start, len(ids))
            found.append(Scored(ids, [n - 1 for n in scored], [ids[n] for n in scored], [len(scored)]))
        return [self._cut(one) for one in found]

    def _cut(self, scored: Scored) -> Scored:
        """The end of a sample that is longer than the context."""
        # Its last token is read only if it predicts another.
        needed = max(scored.positions) + 1
        surplus = 0 if self.context is None else max(0, needed - self.context)
        if min(scored.positions) < surplus:
            what = "a choice is longer than the {context} tokens that the model reads"
            raise DataError(translate(what, context=self.context))
        self.num_cut += surplus > 0
        positions = [position - surplus for position in scored.positions]
        return Scored(scored.ids[surplus:needed], positions, scored.targets, scored.ends)

    def windows(self, text: str) -> list[Scored]:
        """What scores all tokens of `text`, each once, in windows of the context.

        The first token follows the start token; the last window is full, so its tokens have a context too.
        """
        first = self.tokenizer.bos_token_id
        first = self.tokenizer.eos_token_id if first is None else first
        if first is None:
            what = "the tokenizer has neither a start nor an end token, after which a text could begin"
            raise ModelError(translate(what))
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if not ids:
            raise DataError(translate("the text is empty"))
        width = self.context or len(ids)
        before = [first, *ids]
        found = []
        for start in range(0, len(ids), width):
            end = min(start + width, len(ids))
            begin = max(0, end - width)
            positions = range(start - begin, end - begin)
            found.append(Scored(before[begin:end], positions, ids[start:end], [end - start]))
        return found

    @torch.no_grad()
    def score(self, samples: Sequence[Scored]) -> list[list[float]]:
        """The log-probabilities of the texts of each sample, which run together."""
        boundaries = np.cumsum([0, *(len(sample.ids) for sample in samples)])
        ids = torch.tensor([token for sample in samples for token in sample.ids])
        positions = [
            np.asarray(sample.positions, np.int64) + start
            for sample, start in zip(samples, boundaries, strict=False)
        ]
        targets = np.array([token for sample in samples for token in sample.targets], np.int64)
        device = self._model.device
        packed = Packed(ids.to(device), boundaries.tolist(), np.concatenate(positions), targets)
        found = self._model.token_logprobs(self._model.passes_of(packed, with_loss=True))
        # Samples that ran apart come in another order.
        order = np.argsort(found.positions, kind="stable")
        logprobs = found.logprobs.double().cpu().numpy()[order]
        start, result = 0, []
        for sample in samples:
            own = logprobs[start : start + len(sample.targets)]
            start += len(sample.targets)
            result.append([float(part.sum()) for part in np.split(own, list(sample.ends)[:-1])])
        return result


def batches(lengths: Sequence[int], num_tokens: int) -> Iterator[list[int]]:
    """Numbers of samples, the longest first, in batches of at most `num_tokens` tokens or one sample."""
    batch: list[int] = []
    total = 0
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        if batch and total + lengths[number] > num_tokens:
            yield batch
            batch, total = [], 0
        batch.append(number)
        total += lengths[number]
    if batch:
        yield batch
