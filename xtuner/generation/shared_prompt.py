"""A prompt that several requests have, which is read for the first of them.

    requests    [p q r] [p q r] [p q r]      answers of a group, choices of one request to the server
    read         p q r                       one cache, and the logits after it
    answers      p q r | a   p q r | b   p q r | c

Each answer begins with a fork of the cache and chooses its first token from the same logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch

from xtuner.generation.growing_cache import forked
from xtuner.generation.request import Request


class SharedPrompt:
    """The cache after a prompt and the logits [vocabulary], once one of `count` requests has read it."""

    def __init__(self, count: int) -> None:
        self._left = count  # requests that have not begun their answer
        self._cache: Any = None
        self._logits: torch.Tensor | None = None

    @property
    def is_read(self) -> bool:
        """Whether `take` has something to give."""
        return self._logits is not None

    def put(self, cache: Any, logits: torch.Tensor) -> None:
        """Take the cache of a request that has read the prompt; `take` gives it one to go on with."""
        self._cache, self._logits = cache, logits

    def take(self) -> tuple[Any, torch.Tensor]:
        """A cache to go on with, and the logits after the prompt."""
        assert self._logits is not None
        self._left -= 1
        return forked(self._cache, is_last=not self._left), self._logits


def share_prompts(requests: Sequence[Request]) -> None:
    """Let neighbours of `requests` with the same prompt read it once.

    Prompts that come again later are read again: their caches would wait in memory.
    """
    for group in _neighbours(requests):
        if len(group) > 1:
            shared = SharedPrompt(len(group))
            for request in group:
                request.shared = shared


def _neighbours(requests: Sequence[Request]) -> Iterator[list[Request]]:
    able = (request for request in requests if not request.wants_prompt_logits)
    for _, group in groupby(able, lambda request: (request.adapter, request.prompt)):
        yield list(group)
