"""Additions to uvicorn: limits for half-sent requests, and the end of streams at shutdown.

a request's head   must be complete HEAD_S after its first byte, or after the connection was opened
shutdown           answers that are incomplete after `shutdown_s` get an error instead of being cut off
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from xtuner.chat.server.scheduler import Scheduler

HEAD_S = 30.0
_CLOSE_S = 5.0  # to send the last events
_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Protocol(H11Protocol):
    """HTTP/1.1 with a time limit for the head of a request."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _watch_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self._hang_up)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _hang_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(_LATE)
            self.transport.close()


class Server(uvicorn.Server):
    """A server whose answers have `shutdown_s` seconds to end when it is stopped."""

    def __init__(self, app: Any, scheduler: Scheduler, shutdown_s: float) -> None:
        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=round(shutdown_s + _CLOSE_S),
        )
        super().__init__(config)
        self._scheduler, self._shutdown_s = scheduler, shutdown_s

    async def shutdown(self, sockets: Any = None) -> None:
        ending = asyncio.create_task(self._end_answers())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def _end_answers(self) -> None:
        await asyncio.sleep(self._shutdown_s)
        await asyncio.to_thread(self._scheduler.close)
