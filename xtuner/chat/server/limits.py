"""What a request must pass before it is read: the key, the size; and the counting of all of them.

Plain ASGI, so that a client that hangs up is seen by the answer at once.
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

OPEN_PATHS = ("/health",)
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self, num_running: Callable[[], float], num_waiting: Callable[[], float]) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "xtuner_requests", "Requests by path and status", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "xtuner_request_seconds", "Time of a request", ["path"], buckets=_SECONDS, registry=registry
        )
        self.first = Histogram(
            "xtuner_first_token_seconds", "Until the first text", buckets=_SECONDS, registry=registry
        )
        self.prompt_tokens = Counter("xtuner_prompt_tokens", "Tokens of prompts", registry=registry)
        self.reused_tokens = Counter("xtuner_reused_tokens", "Those that were kept", registry=registry)
        self.tokens = Counter("xtuner_generated_tokens", "Tokens of answers", registry=registry)
        self.hung_up = Counter("xtuner_hung_up", "Requests whose client went away", registry=registry)
        running = Gauge("xtuner_running", "Answers that are being written", registry=registry)
        running.set_function(num_running)
        waiting = Gauge("xtuner_waiting", "Requests that wait", registry=registry)
        waiting.set_function(num_waiting)


class Limits:
    """The ASGI application `app` behind a key and a largest size of requests."""

    def __init__(self, app: Any, *, api_key: str | None, max_request_bytes: int, metrics: Metrics) -> None:
        self.app = app
        self.api_key = api_key
        self.max_request_bytes = max_request_bytes
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 499  # what is told of a client that is not there any more

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._pass(scope, receive, watched)
        finally:
            # The route is known only to those that were let in; unknown paths must not fill the memory.
            path = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - start)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self.api_key and scope["path"] not in OPEN_PATHS and not self._has_key(headers):
            message = "this server needs its API key: send the header 'Authorization: Bearer KEY'"
            await refuse(send, 401, message, "invalid_api_key")
            return
        too_large = f"the request is larger than {self.max_request_bytes} bytes"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.max_request_bytes:
            await refuse(send, 413, too_large, "request_too_large")
            return
        body = bytearray()
        more = (length.isdigit() and int(length) > 0) or b"transfer-encoding" in headers
        while more:
            message_in = await receive()
            if message_in["type"] == "http.disconnect":
                return
            body += message_in.get("body", b"")
            if len(body) > self.max_request_bytes:
                await refuse(send, 413, too_large, "request_too_large")
                return
            more = message_in.get("more_body", False)
        told = False

        async def whole() -> MutableMapping[str, Any]:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self.app(scope, whole, send)

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        given = headers.get(b"authorization", b"").decode("latin-1")
        scheme, _, key = given.partition(" ")
        wanted = (self.api_key or "").encode()
        return scheme.lower() == "bearer" and hmac.compare_digest(key.strip().encode(), wanted)


async def refuse(send: Send, status: int, message: str, code: str) -> None:
    """Answer with an error in OpenAI's form."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 413:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
