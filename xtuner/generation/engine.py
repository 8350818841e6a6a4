"""All answers of one model, generated together, one token per step.

    next_request() ──> reading its prompt ──> batch of its adapter, one token a step
         or its cache, if a neighbour has read it                │
                              ^                                  │
    kept keys and values ─────┴──────────── ended, cancelled, late

A step reads one token of every answer, then up to `chunk` tokens of new prompts, so that a long prompt does
not delay the running answers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from xtuner.generation.batch import Batch, Reader
from xtuner.generation.kept_cache import KeptCache
from xtuner.generation.limits import end_ids, positions_change_at
from xtuner.generation.pictures import Pictures
from xtuner.generation.request import Request
from xtuner.generation.shared_prompt import SharedPrompt
from xtuner.model.base import device_of

CHUNK_WITH_LOGITS = 128  # tokens of a prompt that are read at once if the logits after each are needed


@dataclass
class _Group:
    """Answers that are read as one batch, in its order."""

    adapter: str | None
    batch: Batch
    requests: list[Request] = field(default_factory=list)


class Engine:
    """Generates answers with one model; for one thread, without gradients and in eval mode.

    `cache` keeps the keys and values of ended answers. Within `using(name)` that adapter is active.
    The error of a request is emitted as `Failed`; an exception of its `emit` is raised by `step`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        cache: KeptCache | None = None,
        pictures: Pictures | None = None,
        max_running: int = 32,
        chunk: int | None = None,
        using: Callable[[str | None], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_running = max_running
        self.device = device_of(model)
        self.ends = end_ids(model, tokenizer)
        self._reader = Reader(model, self.device, pictures)
        self._cache = cache if self._reader.continues else None
        self._chunk = sys.maxsize if chunk is None else chunk
        self._using = using
        self._same_until = positions_change_at(model)
        self._reading: Request | None = None
        self._groups: list[_Group] = []
        self.num_read = 0  # tokens of prompts that were read

    @property
    def running(self) -> list[Request]:
        """The requests whose prompt or answer is being read."""
        reading = [] if self._reading is None else [self._reading]
        return reading + [request for group in list(self._groups) for request in group.requests]

    def step(self, next_request: Callable[[], Request | None]) -> bool:
        """Generate one token of every answer, then read new prompts; False if there was nothing to do.

        `next_request` returns the next request to read, or None.
        """
        groups = list(self._groups)
        for group in groups:
            try:
                self._read_token(group)
            except Exception as error:
                while group.requests:
                    group.requests.pop(0).fail(error)
        self._groups = [group for group in self._groups if group.requests]
        return self._read_prompts(next_request) or bool(groups)

    def _read_token(self, group: _Group) -> None:
        self._leave(group, {i for i, request in enumerate(group.requests) if request.is_over()})
        if not group.requests:
            return
        with self._using(group.adapter):
            logits = group.batch.read([request.row for request in group.requests])
        rows = zip(group.requests, logits, strict=True)
        self._leave(group, {i for i, (request, row) in enumerate(rows) if _ends(request, row)})

    def _read_prompts(self, next_request: Callable[[], Request | None]) -> bool:
        budget, has_read = self._chunk, False
        while budget > 0:
            if self._reading is None:
                self._reading = next_request() if len(self.running) < self.max_running else None
                if self._reading is None:
                    break
            has_read, request = True, self._reading
            try:
                if request.is_over():
                    self._reading = None
                    continue
                budget -= self._read_chunk(request, budget)
            except Exception as error:
                self._reading = None
                request.fail(error)
        return has_read

    def _begin(self, request: Request) -> None:
        request.begin(self.tokenizer, self.ends, self.device)
        request.positions = self._reader.positions(request.prompt)
        is_shared = request.shared is not None and request.shared.is_read
        if self._cache is not None and not (request.wants_prompt_logits or is_shared):
            found = self._cache.take(request.prompt, request.adapter, self._same_until)
            request.cache, request.num_read = found
            request.num_reused = request.num_read

    def _read_chunk(self, request: Request, budget: int) -> int:
        """Read the next tokens of a prompt and return their number; after the last it joins a batch."""
        if not request.has_begun:
            self._begin(request)
        if request.shared is not None and request.shared.is_read:
            self._answer_from(request, request.shared)
            return 0
        budget = min(budget, CHUNK_WITH_LOGITS) if request.wants_prompt_logits else budget
        start, end = request.num_read, min(len(request.prompt), request.num_read + budget)
        end = self._reader.whole(request.prompt, end) if self._reader.continues else len(request.prompt)
        with self._using(request.adapter):
            logits, cache = self._read(request, request.cache, start, end)
            if cache is None and end < len(request.prompt):
                # A family without a cache reads its prompt as a whole.
                start, end = 0, len(request.prompt)
                logits, _ = self._read(request, None, start, end)
        self.num_read += end - start
        request.cache, request.num_read = cache, end
        if end == len(request.prompt):
            if request.shared is None:
                self._answer(request, logits)
            else:
                request.shared.put(cache, logits)
                self._answer_from(request, request.shared)
        return end - start

    def _answer_from(self, request: Request, shared: SharedPrompt) -> None:
        """Begin the answer after a prompt that was read, for `request` or for a neighbour."""
        # What waits for nobody is dropped with its last reference.
        request.shared = None
        request.num_reused += len(request.prompt) - request.num_read
        request.num_read = len(request.prompt)
        request.cache, logits = shared.take()
        self._answer(request, logits)

    def _answer(self, request: Request, logits: torch.Tensor) -> None:
        """Choose the first token; the request joins a batch unless its answer has ended."""
        self._reading = None
        if request.end_prompt() or request.push(logits):
            self._keep(request, request.cache, request.num_read)
        else:
            self._join(request)

    def _read(self, request: Request, cache: Any, start: int, end: int) -> tuple[torch.Tensor, Any]:
        """The logits [vocabulary] after the tokens of the prompt from `start` to `end`, and the cache."""
        row, positions = request.prompt[:end], request.positions
        if not request.wants_prompt_logits:
            logits, cache = self._reader.read(row, start, cache, positions)
            return logits[0], cache
        logits, cache = self._reader.read(row, start, cache, positions, all_logits=True)
        if cache is not None or end - start == len(request.prompt):
            request.push_prompt(logits[0], start)
        return logits[0, -1], cache

    def _join(self, request: Request) -> None:
        cache, request.cache = request.cache, None
        for group in self._groups:
            if group.adapter == request.adapter and group.requests and group.batch.takes(cache):
                break
        else:
            group = _Group(request.adapter, Batch(self._reader))
            self._groups.append(group)
        group.batch.add(cache, len(request.prompt), request.shift)
        group.requests.append(request)

    def _leave(self, group: _Group, indices: set[int]) -> None:
        if not indices:
            return
        most = 0 if self._cache is None else self._cache.most
        for i in sorted(indices)[-most:] if most else ():
            self._keep(group.requests[i], group.batch.row_cache(i), group.batch.lengths[i])
        group.batch.remove(indices)
        group.requests = [request for i, request in enumerate(group.requests) if i not in indices]

    def _keep(self, request: Request, cache: Any, length: int) -> None:
        if self._cache is not None and cache is not None:
            self._cache.keep(request.row[:length], cache, request.adapter)


def _ends(request: Request, logits: torch.Tensor) -> bool:
    """Whether the answer to `request` ends with the token after these logits."""
    try:
        return request.push(logits)
    except Exception as error:
        request.fail(error)
        return True
