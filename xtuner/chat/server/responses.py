"""The answer of a request from the scheduler's events: one JSON object, or a stream of them.

    Piece("He"), Piece("llo"), End   ->   {"choices": [{"message": {"content": "Hello"}}], "usage": ...}
                                     ->   data: {... "delta": {"content": "He"}}   data: ...   data: [DONE]

Generation stops when the client disconnects.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import itertools
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response, StreamingResponse

from xtuner.chat.server.limits import Metrics
from xtuner.chat.server.requests import Job
from xtuner.chat.server.scheduler import QueueFullError, Scheduler
from xtuner.chat.server.service import ApiError, refusal
from xtuner.chat.server.tool_calls import Call, CallFinder
from xtuner.errors import XTunerError
from xtuner.generation.request import End, Event, Failed, Piece, Request, TokenInfo
from xtuner.singular import filled

T = TypeVar("T")
PING_S = 15.0  # a stream that is silent so long sends a comment, so that no proxy closes it


class Writer(Protocol):
    """Converts the events of a job to the format of one interface."""

    closing: str  # what ends a stream

    def line(self, value: dict[str, Any]) -> str: ...
    def failed(self, error: ApiError) -> dict[str, Any]: ...
    def begin(self) -> list[dict[str, Any]]: ...
    def chunks(self, index: int, event: Event) -> list[dict[str, Any]]: ...
    def end(self) -> list[dict[str, Any]]: ...
    def whole(self) -> dict[str, Any]: ...


async def respond(
    job: Job,
    request: HttpRequest,
    scheduler: Scheduler,
    metrics: Metrics,
    client: str,
    deadline: float,
    make_writer: Callable[[Job, Metrics], Writer] | None = None,
    runner: Executor | None = None,
) -> Response:
    """The answer to `job`; ApiError if the queue is full or the generation fails."""
    events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def emit(index: int, event: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(events.put_nowait, (index, event))

    answers = [
        Request(
            prompt,
            sampling,
            functools.partial(emit, i),
            adapter=job.model.adapter,
            client=client,
            deadline=deadline,
            pictures=job.pictures,
        )
        for i, (prompt, sampling) in enumerate(job.parts)
    ]
    try:
        scheduler.submit(answers)
    except QueueFullError as error:
        raise ApiError(429 if scheduler.is_alive else 503, str(error), retry_after_s=1) from error
    writer = (make_writer or OpenAIWriter)(job, metrics)
    source = _events(events, answers, scheduler, metrics)
    if job.stream:
        return StreamingResponse(
            _stream(writer, source), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )
    return await _whole(writer, source, request, functools.partial(_chosen, job, runner))


async def _events(
    events: asyncio.Queue[tuple[int, Event]], answers: list[Request], scheduler: Scheduler, metrics: Metrics
) -> AsyncIterator[tuple[int, Event] | None]:
    """The events of all answers until each has ended; None after PING_S without an event."""
    left = set(range(len(answers)))
    getting = asyncio.ensure_future(events.get())
    try:
        while left:
            await asyncio.wait([getting], timeout=PING_S)
            if not getting.done():
                yield None
                continue
            index, event = getting.result()
            getting = asyncio.ensure_future(events.get())
            if isinstance(event, End | Failed):
                left.discard(index)
            yield index, event
    finally:
        getting.cancel()
        if left:
            metrics.hung_up.inc()
            scheduler.cancel(answers)


async def _stream(writer: Writer, source: AsyncIterator[tuple[int, Event] | None]) -> AsyncIterator[str]:
    try:
        for chunk in writer.begin():
            yield writer.line(chunk)
        async for item in source:
            if item is None:
                yield ": waiting\n\n"
                continue
            if isinstance(item[1], Failed):
                yield writer.line(writer.failed(refusal(item[1].error)))
                return
            for chunk in writer.chunks(*item):
                yield writer.line(chunk)
        for chunk in writer.end():
            yield writer.line(chunk)
        if writer.closing:
            yield writer.closing
    finally:
        await source.aclose()  # type: ignore[attr-defined]


async def _whole(
    writer: Writer,
    source: AsyncIterator[tuple[int, Event] | None],
    request: HttpRequest,
    choose: Callable[[dict[str, Any]], Coroutine[Any, Any, dict[str, Any]]],
) -> Response:
    async def collect() -> dict[str, Any]:
        try:
            async for item in source:
                if item is None:
                    continue
                if isinstance(item[1], Failed):
                    raise refusal(item[1].error)
                for _ in writer.chunks(*item):
                    pass
            return await choose(writer.whole())
        finally:
            await source.aclose()  # type: ignore[attr-defined]

    found = await unless_gone(collect(), request)
    return Response(status_code=499) if found is None else JSONResponse(found)


async def _chosen(job: Job, runner: Executor | None, answer: dict[str, Any]) -> dict[str, Any]:
    """The answer with the choices that `best_of` keeps, scored by `runner`."""
    if job.best_of is None:
        return answer
    try:
        choose = functools.partial(contextvars.copy_context().run, job.best_of.choose, answer)
        return await asyncio.get_running_loop().run_in_executor(runner, choose)
    except XTunerError as error:
        raise refusal(error) from error


async def unless_gone(work: Coroutine[Any, Any, T], request: HttpRequest) -> T | None:
    """The result of `work`; if the client disconnects first, `work` is cancelled and None returned."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.create_task(work), asyncio.create_task(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class _Choice:
    text: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[TokenInfo] = field(default_factory=list)
    offset: int = 0  # characters of the tokens sent in a stream
    finder: CallFinder | None = None
    end: End | None = None


class OpenAIWriter:
    """Converts events to chunks of chats and completions, and collects the whole answer."""

    closing = "data: [DONE]\n\n"

    def __init__(self, job: Job, metrics: Metrics) -> None:
        self.job = job
        self.metrics = metrics
        self.start = time.perf_counter()
        self.begun = False
        self.base = {
            "id": f"{'chatcmpl' if job.is_chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": job.model.name,
        }
        self.notices = list(job.notices)
        self.choices = [_Choice(finder=CallFinder() if job.finds_calls else None) for _ in job.parts]
        self.with_logprobs = job.parts[0][1].logprobs is not None

    @staticmethod
    def line(value: dict[str, Any]) -> str:
        """The text of a chunk in a stream."""
        return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"

    @staticmethod
    def failed(error: ApiError) -> dict[str, Any]:
        """The chunk of an error."""
        return error.body()

    def begin(self) -> list[dict[str, Any]]:
        """The first chunks of a stream."""
        if not self.job.is_chat:
            return []
        role = {"role": "assistant", "content": ""}
        return [self._chunk({"index": i, "delta": role}) for i in range(len(self.choices))]

    def chunks(self, index: int, event: Event) -> list[dict[str, Any]]:
        """The chunks of `event` in a stream."""
        choice = self.choices[index]
        if isinstance(event, Piece):
            if not self.begun:
                self.begun = True
                self.metrics.first.observe(time.perf_counter() - self.start)
            choice.tokens += event.tokens
            parts = self._parts(choice, event.text)
            return self._deltas(index, parts, event.tokens)
        assert isinstance(event, End)
        found = [] if choice.finder is None else self._deltas(index, [*choice.finder.finish()], [])
        choice.end = event
        self._count(index, event)
        if event.finish == "time":
            self.notices.append(
                filled(
                    "answer {index} was cut after {count} tokens: its time was over",
                    index=index,
                    count=event.num_tokens,
                )
            )
        empty: dict[str, Any] = {"delta": {}} if self.job.is_chat else {"text": ""}
        last = self._chunk({"index": index, **empty, "finish_reason": self._finish(choice)})
        if self.notices and not self.job.stream_usage and all(c.end is not None for c in self.choices):
            last["notices"] = self.notices
        return [*found, last]

    def end(self) -> list[dict[str, Any]]:
        """The chunk of the usage with the notices, if requested."""
        if not self.job.stream_usage:
            return []
        notices = {"notices": self.notices} if self.notices else {}
        return [{**self._chunk(), "usage": self._usage(), **notices}]

    def whole(self) -> dict[str, Any]:
        """The answer as one object."""
        kind = "chat.completion" if self.job.is_chat else "text_completion"
        choices = [self._whole_choice(i, choice) for i, choice in enumerate(self.choices)]
        more = {"usage": self._usage(), "notices": self.notices}
        return {**self.base, "object": kind, "choices": choices, **more}

    def _notice(self, text: str) -> None:
        if text not in self.notices:
            self.notices.append(text)

    @staticmethod
    def _parts(choice: _Choice, text: str) -> list[str | Call]:
        return [text] if choice.finder is None else [*choice.finder.push(text)]

    def _deltas(self, index: int, parts: list[str | Call], tokens: list[TokenInfo]) -> list[dict[str, Any]]:
        choice = self.choices[index]
        found = []
        logprobs = {}
        if self.with_logprobs and tokens:
            logprobs = {"logprobs": self._logprobs(tokens, choice.offset)}
            choice.offset += sum(len(self._text(info.token)) for info in tokens)
        if not parts and logprobs:
            parts = [""]
        for part in parts:
            if isinstance(part, Call):
                if self.job.one_call and choice.calls:
                    self._notice("further calls were left out: parallel_tool_calls is false")
                    continue
                call = {
                    "id": f"call_{uuid.uuid4().hex[:24]}",
                    "type": "function",
                    "function": {"name": part.name, "arguments": part.arguments},
                }
                delta: dict[str, Any] = {"tool_calls": [{"index": len(choice.calls), **call}]}
                choice.calls.append(call)
            else:
                choice.text.append(part)
                delta = {"content": part}
            value = {"delta": delta} if self.job.is_chat else {"text": part}
            found.append(self._chunk({"index": index, **value, **logprobs}))
            logprobs = {}
        return found

    def _whole_choice(self, index: int, choice: _Choice) -> dict[str, Any]:
        text = "".join(choice.text)
        logprobs = self._logprobs(choice.tokens, 0) if self.with_logprobs else None
        more = {"logprobs": logprobs, "finish_reason": self._finish(choice)}
        if not self.job.is_chat:
            return {"index": index, "text": text, **more}
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if choice.calls:
            message = {"role": "assistant", "content": text.strip() or None, "tool_calls": choice.calls}
        return {"index": index, "message": message, **more}

    def _chunk(self, *choices: dict[str, Any]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.job.is_chat else "text_completion"
        whole = [{"logprobs": None, "finish_reason": None, **choice} for choice in choices]
        return {**self.base, "object": kind, "choices": whole}

    def _finish(self, choice: _Choice) -> str:
        assert choice.end is not None
        if choice.end.is_complete:
            return "tool_calls" if choice.calls else "stop"
        return "length"

    def _count(self, index: int, end: End) -> None:
        self.metrics.tokens.inc(end.num_tokens)
        self.metrics.prompt_tokens.inc(end.num_prompt_tokens)
        self.metrics.reused_tokens.inc(end.num_reused)

    def _usage(self) -> dict[str, Any]:
        ends = [choice.end for choice in self.choices if choice.end is not None]
        # A prompt counts once for all its answers.
        prompt = sum(end.num_prompt_tokens for end in ends[:: self.job.num_choices])
        answer = sum(end.num_tokens for end in ends)
        cached = {"cached_tokens": sum(end.num_reused for end in ends[:: self.job.num_choices])}
        return {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
            "prompt_tokens_details": cached,
        }

    def _logprobs(self, tokens: list[TokenInfo], offset: int) -> dict[str, Any]:
        if self.job.is_chat:
            entries = [
                {
                    **self._token(info.token, info.logprob),
                    "top_logprobs": [self._token(token, value) for token, value in info.top],
                }
                for info in tokens
            ]
            return {"content": entries}
        texts = [self._text(info.token) for info in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [_finite(info.logprob) for info in tokens],
            "top_logprobs": [
                None if info.logprob is None else {self._text(t): _finite(v) for t, v in info.top}
                for info in tokens
            ],
            "text_offset": [*itertools.accumulate(map(len, texts[:-1]), initial=offset)] if texts else [],
        }

    def _token(self, token: int, logprob: float | None) -> dict[str, Any]:
        text = self._text(token)
        # The text of a token that is not a whole character does not have its bytes.
        whole = "\N{REPLACEMENT CHARACTER}" not in text
        return {"token": text, "logprob": _finite(logprob), "bytes": list(text.encode()) if whole else None}

    def _text(self, token: int) -> str:
        return str(self.job.tokenizer.decode([token], skip_special_tokens=False))


def _finite(value: float | None) -> float | None:
    # JSON has no infinity.
    return None if value is None else max(value, -9999.0)
