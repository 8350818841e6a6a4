"""The queue of requests and the thread in which one engine answers them.

    submit ──> waiting, by client ──one of each client in turn──> engine

A client with many requests does not delay a client with one.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import torch

from xtuner.chat.adapters import using_adapter
from xtuner.errors import XTunerError
from xtuner.generation.engine import Engine
from xtuner.generation.kept_cache import KeptCache
from xtuner.generation.pictures import Pictures
from xtuner.generation.request import Failed, Request
from xtuner.generation.shared_prompt import share_prompts
from xtuner.language import speaking_here, translate
from xtuner.log import logger
from xtuner.singular import filled

CHUNK = 1024  # prompt tokens that are read between two tokens of the running answers
KEPT = 4  # ended dialogues whose caches are kept for their next turn
_SHUTTING_DOWN = "the server is shutting down"
_STOPPED = "the server was stopped before the answer was complete"


class QueueFullError(XTunerError):
    """The queue of requests is full."""


class StoppedError(QueueFullError):
    """The server answers no more requests."""


class _Queue:
    """Waiting requests; `pop` returns one of each client in turn."""

    def __init__(self) -> None:
        self._by_client: OrderedDict[str, deque[Request]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._by_client.values()))

    def __iter__(self) -> Iterator[Request]:
        return (request for requests in self._by_client.values() for request in requests)

    def add(self, request: Request) -> None:
        self._by_client.setdefault(request.client, deque()).append(request)

    def pop(self) -> Request:
        client, requests = self._by_client.popitem(last=False)
        request = requests.popleft()
        if requests:
            self._by_client[client] = requests
        return request

    def take_out(self, gone: Callable[[Request], bool]) -> list[Request]:
        found = [request for request in self if gone(request)]
        for request in found:
            self._by_client[request.client].remove(request)
            if not self._by_client[request.client]:
                del self._by_client[request.client]
        return found


class Scheduler:
    """Answers requests with one model until it is closed. Adapters have their names in peft."""

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
        self.max_waiting = max_waiting
        self.engine = Engine(
            model,
            tokenizer,
            cache=KeptCache(KEPT),
            pictures=pictures,
            max_running=max_running,
            chunk=CHUNK,
            using=functools.partial(using_adapter, model),
        )
        self._queue = _Queue()
        self._asides: deque[tuple[Callable[[], Any], str | None, Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._closed = ""  # the reason, once no more requests are accepted
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def start(self) -> Scheduler:
        """Start the thread."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop the thread; incomplete answers fail at once, before the current token is complete."""
        self._close(_SHUTTING_DOWN, _STOPPED)
        self._thread.join()

    def _close(self, refusal: str, failure: str) -> None:
        with self._changed:
            self._closed = self._closed or refusal
            error = StoppedError(failure)
            for request in [*self._queue, *self.engine.running]:
                if not request.cancelled:
                    request.cancelled = True
                    try:
                        request.emit(Failed(error))
                    except Exception as e:  # the other requests must still get the error
                        logger.error(
                            translate("a request could not be informed that it failed: %s"), e, exc_info=e
                        )
            self._queue = _Queue()
            while self._asides:
                _, _, future = self._asides.popleft()
                if future.set_running_or_notify_cancel():
                    future.set_exception(error)
            self._changed.notify_all()

    @property
    def is_alive(self) -> bool:
        """Whether requests will be answered."""
        return self._thread.is_alive() and not self._closed

    @property
    def num_waiting(self) -> int:
        """The number of requests that wait in the queue."""
        with self._changed:
            return len(self._queue)

    @property
    def num_running(self) -> int:
        """The number of requests that the engine reads or answers."""
        return len(self.engine.running)

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue all of `requests`, or none with QueueFullError if there is no room."""
        with self._changed:
            if self._closed:
                raise StoppedError(self._closed)
            if len(self._queue) + len(requests) > self.max_waiting:
                raise QueueFullError(
                    filled(
                        "{count} requests wait already, {most} may: try again later",
                        count=len(self._queue),
                        most=self.max_waiting,
                    )
                )
            share_prompts(requests)
            for request in requests:
                self._queue.add(request)
            self._changed.notify_all()

    def aside(self, work: Callable[[], Any], adapter: str | None) -> Future[Any]:
        """The result of `work`, run in the scheduler's thread between two tokens; raises as `submit` does."""
        with self._changed:
            if self._closed:
                raise StoppedError(self._closed)
            if len(self._asides) >= self.max_waiting:
                what = "{count} requests wait already: try again later"
                raise QueueFullError(filled(what, count=len(self._asides)))
            future: Future[Any] = Future()
            self._asides.append((work, adapter, future))
            self._changed.notify_all()
        return future

    def cancel(self, requests: Sequence[Request]) -> None:
        """Stop generating for `requests`."""
        with self._changed:
            for request in requests:
                request.cancelled = True
            self._changed.notify_all()

    # --- in the thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        refusal, failure = _SHUTTING_DOWN, _STOPPED
        try:
            with torch.no_grad(), speaking_here("en"):  # its errors are answers
                while self._wait():
                    self._turn()
        except BaseException as error:
            refusal = failure = f"the server has failed, start it again: {type(error).__name__}: {error}"
            logger.error("%s", failure, exc_info=error)
        finally:
            self._close(refusal, failure)

    def _wait(self) -> bool:
        """Wait for work; returns False if the server is closed."""
        with self._changed:
            while not (self._closed or self._queue or self._asides or self.engine.running):
                self._changed.wait()
            return not self._closed

    def _turn(self) -> None:
        with self._changed:
            over = self._queue.take_out(lambda request: request.cancelled or request.is_late)
        for request in over:
            request.is_over()
        self._work_aside()
        self.engine.step(self._next)

    def _next(self) -> Request | None:
        with self._changed:
            return self._queue.pop() if self._queue else None

    def _work_aside(self) -> None:
        with self._changed:
            if not self._asides:
                return
            work, adapter, future = self._asides.popleft()
        if future.set_running_or_notify_cancel():
            try:
                with using_adapter(self.model, adapter):
                    future.set_result(work())
            except Exception as error:
                future.set_exception(error)
