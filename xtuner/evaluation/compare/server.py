"""The page where votes are given, served on this machine, with Python's own server.

GET  /       the page
POST /vote   {"id": "3", "choice": "left"}  ->  {"state": "12 of 40 pairs have a vote"}
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from xtuner.chat.hosts import is_loopback
from xtuner.evaluation.compare.page import Names, state, vote_of, vote_page
from xtuner.evaluation.compare.pairs import Pair, Score
from xtuner.evaluation.compare.votes import Votes
from xtuner.language import translate
from xtuner.log import logger

MAX_BYTES = 10_000
TIMEOUT_S = 30.0


class Ballot:
    """The page of the pairs, and their votes; blind with a `seed`."""

    def __init__(
        self,
        names: Names,
        pairs: Sequence[Pair],
        scores: Mapping[str, Score],
        votes: Votes,
        seed: int | None,
        lang: str,
    ) -> None:
        self._pairs = {pair.id: pair for pair in pairs}
        self._names, self._votes, self._seed = names, votes, seed
        self._page: Callable[[], str] = lambda: vote_page(names, pairs, scores, votes, seed, lang)

    def page(self) -> str:
        """The page, with the votes so far."""
        return self._page()

    def vote(self, given: Any) -> str:
        """Store a vote; the state after it. ValueError for what is no vote."""
        if not isinstance(given, dict) or given.get("choice") not in ("left", "right", "tie"):
            raise ValueError('a vote is {"id": ..., "choice": "left", "right" or "tie"}')
        pair = self._pairs.get(str(given.get("id")))
        if pair is None:
            raise ValueError("there is no such pair")
        choice = vote_of(str(given["choice"]), pair, self._seed)
        self._votes.add(pair.id, choice, is_blind=self._seed is not None)
        return state(self._votes, self._names, self._seed)


def serve(ballot: Ballot, listener: socket.socket) -> None:
    """Serve the page until Ctrl-C."""
    host, port = listener.getsockname()[:2]
    server = make_server(ballot, listener)
    if not is_loopback(host):
        logger.warning(translate("whoever reaches %s can vote"), host)
    shown = f"[{host}]" if ":" in host else host
    logger.info(translate("Open http://%s:%d in a browser (Ctrl-C ends it)"), shown, port)
    try:
        server.serve_forever()
    finally:
        server.server_close()


def make_server(ballot: Ballot, listener: socket.socket) -> ThreadingHTTPServer:
    """A server of `ballot` at `listener`."""
    host = listener.getsockname()[0]

    class Handler(_Handler):
        pages = ballot
        # Only a page by DNS rebinding would use another name for this machine.
        checks_host = is_loopback(host)

    server = ThreadingHTTPServer(listener.getsockname()[:2], Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    pages: Ballot
    checks_host = True
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        if self._is_foreign():
            return
        if self.path.partition("?")[0] != "/":
            self._send(404, "there is only /")
            return
        self._send(200, self.pages.page(), "text/html; charset=utf-8")

    def do_POST(self) -> None:
        if self._is_foreign():
            return
        # Pages of other sites cannot send this type without being asked first.
        if self.headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
            self._send(415, "send application/json")
            return
        length = self.headers.get("Content-Length", "")
        if self.path != "/vote" or not length.isdecimal() or int(length) > MAX_BYTES:
            self._send(404 if self.path != "/vote" else 413, "votes go to /vote")
            return
        try:
            answer = self.pages.vote(json.loads(self.rfile.read(int(length))))
        except ValueError as error:
            self._send(400, str(error))
            return
        self._send(200, json.dumps({"state": answer}, ensure_ascii=False), "application/json")

    def _is_foreign(self) -> bool:
        name = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if self.checks_host and not is_loopback(name):
            self._send(403, "this server answers to localhost")
            return True
        return False

    def _send(self, code: int, text: str, kind: str = "text/plain; charset=utf-8") -> None:
        data = text.encode()
        self.send_response(code)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(data))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing: a line for each request would hide the others."""
