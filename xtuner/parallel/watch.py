"""Notices that a process of the run is gone, on whatever machine it was.

    rank 1 ──┐
    rank 2 ──┼── rank 0      a connection that ends without "bye": that process is gone
    rank 3 ──┘               rank 0 tells the others which one; a lost rank 0 they notice themselves

A collective over GPUs may wait for a lost process for half an hour. Each process says who is gone and has
some seconds to end by itself; then it is ended. A machine without power is noticed by keep-alive.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
import threading
import time

from xtuner.language import told

GRACE_SECONDS = 10.0
_BYE = b"bye"


class Watch:
    """The connections of this process; nothing is sent while all is well."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._left = False
        self._peers: dict[int, socket.socket] = {}
        self._server: socket.socket | None = None

    def listen(self) -> int:
        """The port at which rank 0 waits for the others from now on."""
        self._server = socket.create_server(("", 0), backlog=self.size)
        threading.Thread(target=self._watch_all, daemon=True).start()
        return self._server.getsockname()[1]

    def join(self, host: str, port: int) -> None:
        """Connect to rank 0."""
        connection = socket.create_connection((host, port), timeout=60)
        connection.settimeout(None)
        _keep_alive(connection)
        connection.sendall(f"{self.rank} {socket.gethostname()}\n".encode())
        self._peers[0] = connection
        threading.Thread(target=self._watch_first, args=(connection,), daemon=True).start()

    def leave(self) -> None:
        """Say that this process ends as it should."""
        self._left = True
        for connection in self._peers.values():
            _send(connection, _BYE)

    def _watch_all(self) -> None:
        assert self._server is not None
        names: dict[socket.socket, str] = {}
        with selectors.DefaultSelector() as selector:
            selector.register(self._server, selectors.EVENT_READ)
            while not self._left:
                for key, _ in selector.select(timeout=1.0):
                    if key.fileobj is self._server:
                        connection, _ = self._server.accept()
                        _keep_alive(connection)
                        rank, _, host = connection.makefile().readline().strip().partition(" ")
                        names[connection] = f"rank {rank} on {host}"
                        self._peers[int(rank)] = connection
                        selector.register(connection, selectors.EVENT_READ)
                        continue
                    connection = key.fileobj  # type: ignore[assignment]
                    selector.unregister(connection)
                    if _receive(connection) != _BYE and not self._left:
                        for other in self._peers.values():
                            _send(other, names[connection].encode())
                        self._end(names[connection])

    def _watch_first(self, connection: socket.socket) -> None:
        word = _receive(connection)
        if word != _BYE and not self._left:
            self._end(word.decode() or "rank 0")

    def _end(self, who: str) -> None:
        what = told("rank {rank}: {who} is lost; this process ends", rank=self.rank, who=who)
        sys.stderr.write(f"xtuner: error: {what}\n")
        time.sleep(GRACE_SECONDS)
        os._exit(1)


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Ten seconds of silence, then three questions five seconds apart.
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1024)
    except OSError:
        return b""


def _send(connection: socket.socket, word: bytes) -> None:
    try:
        connection.sendall(word)
    except OSError:
        return  # it is gone as well
