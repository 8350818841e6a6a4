"""Checks before a request is parsed: host, key, size, time; and metrics of all requests.

Plain ASGI, so that the handler notices at once when a client disconnects.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from xtuner.chat.hosts import is_loopback
from xtuner.chat.server.service import Service

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

OPEN_PATHS = ("/health",)
_DISCARD_S, _DISCARD_BYTES = 5.0, 2**28  # limits for reading the rest of a refused request
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class Metrics:
    """The metrics of one server, in a separate registry."""

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
    """The ASGI application `app` behind the checks of `service`: host, key, size and time."""

    def __init__(self, app: Any, service: Service, metrics: Metrics) -> None:
        self.app = app
        self.service = service
        self.metrics = metrics
        # On a loopback address only a page by DNS rebinding could use the server from outside.
        self._checks_host = service.host is not None and is_loopback(service.host) and not service.api_key
        self._hosts = {origin.partition("://")[2].lower() for origin in service.allowed_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 499  # the client has disconnected

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._pass(scope, receive, watched)
        finally:
            # Only accepted requests have a route; unknown paths must not fill the memory.
            path = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - start)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        if (host := self._foreign_host(headers)) is not None:
            message = (
                f"this server answers to localhost, not to {host!r}: to allow the name start it with "
                f"--allowed-origins http://{host}, or with --api-key"
            )
            await refuse(send, receive, 403, message, "host_not_allowed")
            return
        if self.service.api_key and scope["path"] not in OPEN_PATHS and not self._has_key(headers):
            message = "this server needs its API key: send the header 'Authorization: Bearer KEY'"
            await refuse(send, receive, 401, message, "invalid_api_key")
            return
        try:
            body = await self._body(headers, receive)
        except _TooLargeError as error:
            message = f"the request is larger than {self.service.max_request_bytes} bytes"
            await refuse(send, receive, 413, message, "request_too_large", more=error.more)
            return
        except asyncio.TimeoutError:
            message = "the request was not sent to its end in time"
            await refuse(send, receive, 408, message, "request_timeout", more=False)
            return
        if body is None:
            return
        is_answered = False

        async def whole() -> MutableMapping[str, Any]:
            nonlocal is_answered
            if is_answered:
                return await receive()
            is_answered = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, whole, send)

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """The body of a request, or None if the client disconnects."""
        most = self.service.max_request_bytes
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and (len(length) > 20 or int(length) > most):
            raise _TooLargeError(more=True)
        body = bytearray()
        more = length.strip(b"0") != b"" or b"transfer-encoding" in headers
        deadline = time.monotonic() + max(self.service.timeout_s, self.service.read_s)
        while more:
            left = min(self.service.read_s, deadline - time.monotonic())
            message = await asyncio.wait_for(receive(), left)
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > most:
                raise _TooLargeError(more)
        return bytes(body)

    def _foreign_host(self, headers: dict[bytes, bytes]) -> str | None:
        """The host of the request if it is not a name of this machine, else None."""
        host = headers.get(b"host", b"").decode("latin-1").strip().lower()
        if not self._checks_host or not host or host in self._hosts:
            return None
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        return None if is_loopback(name) else host

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        header = headers.get(b"authorization", b"").decode("latin-1")
        scheme, _, key = header.partition(" ")
        expected = (self.service.api_key or "").encode()
        return scheme.lower() == "bearer" and hmac.compare_digest(key.strip().encode(), expected)


class _TooLargeError(Exception):
    """A body is too large; `more` is whether the client is still sending it."""

    def __init__(self, more: bool) -> None:
        super().__init__()
        self.more = more


async def refuse(
    send: Send, receive: Receive, status: int, message: str, code: str, *, more: bool = True
) -> None:
    """Answer with an error in OpenAI's format; `more` is whether the request is still being sent."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers.append((b"connection", b"close"))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if more:
        await _discard(receive)
    await send({"type": "http.response.body", "body": b""})


async def _discard(receive: Receive) -> None:
    """Discard the rest of a request: most clients read the answer only after sending everything."""
    size, deadline = 0, time.monotonic() + _DISCARD_S
    more = True
    while more and size < _DISCARD_BYTES:
        try:
            message = await asyncio.wait_for(receive(), deadline - time.monotonic())
        except asyncio.TimeoutError:
            return
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
