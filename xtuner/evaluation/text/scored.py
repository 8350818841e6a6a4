"""Texts after others as token ids, and which of these are scored.

prompt "2 + 2 ="   choices " 4"  " 5"      ids     1 29 31  4 | 1 29 31  5
one sample for choices that differ         scored        2             2        positions that predict them
in their last token alone:                 ids     1 29 31                      scored  2 2, targets 4 5
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from xtuner.errors import DataError, ModelError
from xtuner.generation.kept_cache import common_length
from xtuner.language import translate

T = TypeVar("T")

LEAST_SHARED = 128
"""Tokens of the shortest prefix that is read once; it saves less than what another forward pass costs."""


@dataclass(frozen=True)
class Scored:
    """Ids of a text; the tokens `targets` are scored after `positions`; `ends` divides them into texts.

    The first `num_shared` ids are a prefix that other samples have too; none of its tokens is scored.
    """

    ids: Sequence[int]
    positions: Sequence[int]
    targets: Sequence[int]
    ends: Sequence[int]
    num_shared: int = 0

    @property
    def prefix(self) -> tuple[int, ...]:
        """The ids of the shared prefix."""
        return tuple(self.ids[: self.num_shared])


class TextEncoder:
    """What encodes texts to be scored by a model that reads at most `context` tokens.

    `keeps_prefixes`: a prefix that several samples share can be read once.
    """

    def __init__(self, tokenizer: Any, context: int | None, keeps_prefixes: bool = False) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.num_cut = 0
        self._keeps_prefixes = keeps_prefixes

    def encode(self, text: str) -> list[int]:
        """The ids of a text, with the tokenizer's special tokens, but not a second start token."""
        has_start = bool(self.tokenizer.bos_token) and text.startswith(self.tokenizer.bos_token)
        return list(self.tokenizer(text, add_special_tokens=not has_start)["input_ids"])

    @property
    def start_token(self) -> int:
        """The token that a text follows which follows nothing."""
        first = self.tokenizer.bos_token_id
        first = self.tokenizer.eos_token_id if first is None else first
        if first is None:
            what = "the tokenizer has neither a start nor an end token, after which a text could begin"
            raise ModelError(translate(what))
        return first

    def after(self, prompt: str, texts: Sequence[str], num_shared: int = 0) -> list[Scored]:
        """What scores each of `texts` after `prompt`; one sample for those of one token.

        The first `num_shared` characters of `prompt` precede other questions too. Texts after an empty prompt
        follow the start token.
        """
        kept = prompt.rstrip()
        spaces = prompt[len(kept) :]
        start = len(self.encode(kept))
        encoded = [self.encode(kept + spaces + text) for text in texts]
        if start == 0:
            start, first_id = 1, self.start_token
            encoded = [ids if ids[:1] == [first_id] else [first_id, *ids] for ids in encoded]
        shared = self._num_shared(prompt[:num_shared], encoded, start)
        first = encoded[0][:start]
        if all(len(ids) == start + 1 and ids[:start] == first for ids in encoded):
            last = [start - 1] * len(texts)
            ends = range(1, len(texts) + 1)
            return [self._cut(Scored(first, last, [ids[-1] for ids in encoded], ends, shared))]
        found = []
        for ids in encoded:
            scored = range(start, len(ids))
            targets = [ids[n] for n in scored]
            found.append(Scored(ids, [n - 1 for n in scored], targets, [len(scored)], shared))
        cut = [self._cut(one) for one in found]
        least = min(one.num_shared for one in cut)
        return [dataclasses.replace(one, num_shared=least) for one in cut]

    def _num_shared(self, text: str, encoded: Sequence[Sequence[int]], start: int) -> int:
        """The number of tokens of `text` with which all of `encoded` begin, 0 if it is not worth a pass."""
        if not (text and self._keeps_prefixes):
            return 0
        ids = self.encode(text)
        # The token before the first that is scored is read with the rest.
        count = min(start - 1, *(common_length(ids, own) for own in encoded))
        return count if count >= LEAST_SHARED else 0

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
        num_shared = 0 if surplus else scored.num_shared
        return Scored(scored.ids[surplus:needed], positions, scored.targets, scored.ends, num_shared)

    def windows(self, text: str, *, special_tokens: bool = False) -> list[Scored]:
        """What scores all tokens of `text`, each once, in windows of the context.

        The first token follows the start token; the last window is full, so its tokens have a context too.
        `special_tokens`: those that the tokenizer adds to the text are scored too.
        """
        first = self.start_token
        plain = {} if special_tokens else {"add_special_tokens": False}
        ids = list(self.tokenizer(text, **plain)["input_ids"])
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


def in_batches(
    score: Callable[[Sequence[Scored]], list[list[T]]], todo: Sequence[Sequence[Scored]], num_tokens: int
) -> Iterator[tuple[list[int], list[list[T]]]]:
    """Numbers of items of `todo` that ran together, and what `score` found for the texts of each.

    At most `num_tokens` tokens run together, the longest items first.
    """
    for numbers in batches([sum(len(one.ids) for one in samples) for samples in todo], num_tokens):
        found = iter(_in_parts(score, [one for n in numbers for one in todo[n]], num_tokens))
        yield numbers, [[value for _ in todo[n] for value in next(found)] for n in numbers]


def _in_parts(
    score: Callable[[Sequence[Scored]], list[list[T]]], samples: Sequence[Scored], num_tokens: int
) -> Iterator[list[T]]:
    start = total = 0
    for number, sample in enumerate(samples):
        if number > start and total + len(sample.ids) > num_tokens:
            yield from score(samples[start:number])
            start, total = number, 0
        total += len(sample.ids)
    if start < len(samples):
        yield from score(samples[start:])
