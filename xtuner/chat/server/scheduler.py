"""All answers of one model, written together by one thread.

    submit ──> waiting, by client ──one of each client in turn──> reading its prompt ──> batch of its adapter
                                                                                           │ a token a turn
    kept caches <──────────────────────────────────────────────────────── ended, cancelled, late

In a turn up to CHUNK tokens of new prompts are read, then every batch one token. So a long prompt does not
hold up the answers that are being written, and a client with many requests not the one with a single one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from xtuner.chat.generate import end_ids
from xtuner.chat.pictures import Pictures
from xtuner.chat.server.answer import Answer, Failed
from xtuner.chat.server.batch import Batch, Reader, cut
from xtuner.errors import XTunerError
from xtuner.log import logger

CHUNK = 1024  # tokens of prompts that are read between two tokens of the running answers
CHUNK_WITH_LOGITS = 128  # where the logits after each of them are wanted, which are large
KEPT = 4  # ended dialogues whose keys and values wait for their next turn
_STOPPED = "the server was stopped before the answer was complete"
_BROKEN = "the server can write no more answers; its log has the error: start it again"


class QueueFullError(XTunerError):
    """No more requests can wait."""


class _Queue:
    """Waiting answers; `pop` takes one of each client in turn."""

    def __init__(self) -> None:
        self._by_client: OrderedDict[str, deque[Answer]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._by_client.values()))

    def __iter__(self) -> Iterator[Answer]:
        return (answer for answers in self._by_client.values() for answer in answers)

    def add(self, answer: Answer) -> None:
        self._by_client.setdefault(answer.client, deque()).append(answer)

    def pop(self) -> Answer:
        client, answers = self._by_client.popitem(last=False)
        answer = answers.popleft()
        if answers:
            self._by_client[client] = answers
        return answer

    def take_out(self, gone: Callable[[Answer], bool]) -> list[Answer]:
        found = [answer for answer in self if gone(answer)]
        for answer in found:
            self._by_client[answer.client].remove(answer)
            if not self._by_client[answer.client]:
                del self._by_client[answer.client]
        return found


class Scheduler:
    """Writes answers with one model until it is closed. Adapters are named as peft knows them."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_running: int = 32,
        max_waiting: int = 256,
        pictures: Pictures | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_running = max_running
        self.max_waiting = max_waiting
        # Weights that are offloaded stand on "meta" until their layer runs.
        devices = [p.device for p in model.parameters() if p.device.type != "meta"]
        self.device = devices[0] if devices else torch.device("cpu")
        self.ends = end_ids(model, tokenizer)
        self._reader = Reader(model, self.device, pictures)
        self._queue = _Queue()
        self._asides: deque[tuple[Callable[[], Any], str | None, Future[Any]]] = deque()
        self._reading: Answer | None = None
        self._batches: list[tuple[str | None, Batch, list[Answer]]] = []
        self._kept: list[tuple[str | None, list[int], Any]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._refusal = "the server is shutting down"
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def start(self) -> Scheduler:
        """Begin to work."""
        self._thread.start()
        return self

    def close(self) -> None:
        """End; answers that are not complete fail, at once and not after the token that is at work."""
        with self._changed:
            self._closed = True
            self._fail_unfinished(_STOPPED)
            self._changed.notify_all()
        self._thread.join()

    def _fail_unfinished(self, why: str) -> None:
        left = [*self._queue, *([self._reading] if self._reading else [])]
        left += [answer for _, _, answers in list(self._batches) for answer in answers]
        for answer in left:
            if not answer.cancelled:
                answer.cancelled = True
                try:
                    answer.tell(Failed(why, 503))
                except Exception as error:  # one listener less is no reason to leave the others waiting
                    logger.error("an answer could not be told that it failed: %s", error, exc_info=error)
        while self._asides:
            _, _, future = self._asides.popleft()
            if future.set_running_or_notify_cancel():
                future.set_exception(QueueFullError(why))

    @property
    def is_alive(self) -> bool:
        """Whether requests will be answered."""
        return self._thread.is_alive() and not self._closed

    @property
    def num_waiting(self) -> int:
        """Requests that nothing has been done for."""
        with self._changed:
            return len(self._queue)

    @property
    def num_running(self) -> int:
        """Answers that are being read or written."""
        return sum(len(answers) for _, _, answers in self._batches) + (self._reading is not None)

    def submit(self, answers: Sequence[Answer]) -> None:
        """Queue `answers`, all or none; QueueFullError where there is no room."""
        with self._changed:
            if self._closed:
                raise QueueFullError(self._refusal)
            if len(self._queue) + len(answers) > self.max_waiting:
                raise QueueFullError(
                    f"{len(self._queue)} requests wait already, {self.max_waiting} may: try again later"
                )
            for answer in answers:
                self._queue.add(answer)
            self._changed.notify_all()

    def aside(self, work: Callable[[], Any], adapter: str | None) -> Future[Any]:
        """What `work` gives, called in the scheduler's thread between two tokens; fails as `submit` does."""
        with self._changed:
            if self._closed:
                raise QueueFullError(self._refusal)
            if len(self._asides) >= self.max_waiting:
                raise QueueFullError(f"{len(self._asides)} requests wait already: try again later")
            future: Future[Any] = Future()
            self._asides.append((work, adapter, future))
            self._changed.notify_all()
        return future

    def cancel(self, answers: Sequence[Answer]) -> None:
        """Write no more of `answers`."""
        with self._changed:
            for answer in answers:
                answer.cancelled = True
            self._changed.notify_all()

    # --- in the thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:
            logger.error("the scheduler failed: %s: %s", type(error).__name__, error, exc_info=error)
            self._refusal = _BROKEN
        with self._changed:
            why = _STOPPED if self._closed else _BROKEN
            self._closed = True
            self._fail_unfinished(why)

    def _work(self) -> None:
        with torch.no_grad():
            while True:
                with self._changed:
                    while not (self._closed or self._queue or self._asides or self.num_running):
                        self._changed.wait()
                    if self._closed:
                        return
                self._turn()

    def _turn(self) -> None:
        with self._changed:
            gone = self._queue.take_out(lambda a: a.cancelled or a.is_late)
        for answer in gone:
            if not answer.cancelled:
                answer.tell(Failed("the time allowed for it was over before the answer began", 503))
        self._work_aside()
        self._read_prompts()
        for entry in list(self._batches):
            try:
                self._read_token(*entry)
            except Exception as error:
                self._batches.remove(entry)
                for answer in entry[2]:
                    _fail(answer, error)
        self._batches = [entry for entry in self._batches if entry[2]]

    def _work_aside(self) -> None:
        with self._changed:
            if not self._asides:
                return
            work, adapter, future = self._asides.popleft()
        if future.set_running_or_notify_cancel():
            try:
                with self._using(adapter):
                    future.set_result(work())
            except Exception as error:
                future.set_exception(error)

    def _read_prompts(self) -> None:
        budget = CHUNK
        while budget > 0:
            if self._reading is None:
                with self._changed:
                    if not self._queue or self.num_running >= self.max_running:
                        return
                    self._reading = self._queue.pop()
                try:
                    self._begin(self._reading)
                except Exception as error:
                    answer, self._reading = self._reading, None
                    _fail(answer, error)
                    continue
            answer = self._reading
            if answer.cancelled or answer.is_late:
                if not answer.cancelled:
                    answer.tell(Failed("the time allowed for it was over before the answer began", 503))
                self._reading = None
                continue
            try:
                budget -= self._read_chunk(answer, budget)
            except Exception as error:
                self._reading = None
                _fail(answer, error)

    def _begin(self, answer: Answer) -> None:
        answer.begin(self.tokenizer, self.ends, self.device)
        if answer.wants_prompt_logits:
            return
        common, best = 0, None
        for entry in self._kept:
            if entry[0] == answer.adapter and (length := _common_length(entry[1], answer.prompt)) > common:
                common, best = length, entry
        # The last token is always read: its logits are what is wanted.
        common = min(common, len(answer.prompt) - 1)
        # What is kept is used up: it must be an earlier turn of this dialogue, not one that begins alike.
        if best is not None and 2 * common > len(best[1]):
            self._kept.remove(best)
            answer.cache = best[2]
            cut(answer.cache, common)
            answer.num_read = answer.num_reused = common

    def _read_chunk(self, answer: Answer, budget: int) -> int:
        """Read on in the prompt of `answer`; returns how many tokens. After the last one it joins a batch."""
        budget = min(budget, CHUNK_WITH_LOGITS) if answer.wants_prompt_logits else budget
        start, end = answer.num_read, min(len(answer.prompt), answer.num_read + budget)
        with self._using(answer.adapter):
            logits, cache = self._read(answer, answer.prompt[start:end], answer.cache, start)
            if cache is None and end < len(answer.prompt):
                # A family that keeps nothing reads its prompt as a whole.
                start, end = 0, len(answer.prompt)
                logits, _ = self._read(answer, answer.prompt, None, start)
        answer.cache, answer.num_read = cache, end
        if end == len(answer.prompt):
            self._reading = None
            if not (answer.tell_prompt() or answer.push(logits)):
                self._join(answer)
        return end - start

    def _read(self, answer: Answer, ids: list[int], cache: Any, start: int) -> tuple[torch.Tensor, Any]:
        """The logits [vocabulary] after the last of `ids`, which stand at `start` in the prompt."""
        if not answer.wants_prompt_logits:
            logits, cache = self._reader([ids], cache)
            return logits[0], cache
        logits, cache = self._reader([ids], cache, all_logits=True)
        if cache is not None or len(ids) == len(answer.prompt):
            answer.push_prompt(logits[0], start)
        return logits[0, -1], cache

    def _join(self, answer: Answer) -> None:
        cache, answer.cache = answer.cache, None
        for adapter, batch, answers in self._batches:
            if adapter == answer.adapter and answers and batch.takes(cache):
                break
        else:
            batch, answers = Batch(self._reader), []
            self._batches.append((answer.adapter, batch, answers))
        batch.add(cache, len(answer.prompt))
        answers.append(answer)

    def _read_token(self, adapter: str | None, batch: Batch, answers: list[Answer]) -> None:
        late = {i for i, answer in enumerate(answers) if answer.cancelled or answer.is_late}
        for i in late:
            if not answers[i].cancelled:
                answers[i].stop_for_time()
        self._leave(adapter, batch, answers, late)
        if not answers:
            return
        with self._using(adapter):
            logits = batch.read([answer.prompt + answer.ids for answer in answers])
        ended = set()
        for i, answer in enumerate(answers):
            try:
                if answer.push(logits[i]):
                    ended.add(i)
            except Exception as error:
                _fail(answer, error)
                ended.add(i)
        self._leave(adapter, batch, answers, ended)

    def _leave(self, adapter: str | None, batch: Batch, answers: list[Answer], indices: set[int]) -> None:
        if not indices:
            return
        for i in indices:
            row = answers[i].prompt + answers[i].ids
            if (cache := batch.row_cache(i)) is not None:
                self._kept.append((adapter, row[: batch.lengths[i]], cache))
        self._kept = self._kept[-KEPT:]
        batch.remove(indices)
        answers[:] = [answer for i, answer in enumerate(answers) if i not in indices]

    @contextmanager
    def _using(self, adapter: str | None) -> Iterator[None]:
        if not hasattr(self.model, "disable_adapter"):
            yield
            return
        if adapter is not None:
            self.model.set_adapter(adapter)
        with nullcontext() if adapter is not None else self.model.disable_adapter():
            yield


def _common_length(a: list[int], b: list[int]) -> int:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def _fail(answer: Answer, error: Exception) -> None:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        answer.tell(Failed("there is not enough memory for this request now: shorten it or try later", 503))
        return
    known = isinstance(error, XTunerError)
    if not known:
        logger.error("an answer failed: %s: %s", type(error).__name__, error, exc_info=error)
    answer.tell(Failed(str(error) if known else f"the model failed: {type(error).__name__}: {error}"))
