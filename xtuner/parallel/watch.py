"""Detects that a process of the run on any machine has died.

    rank 1 ──┐
    rank 2 ──┼── rank 0      a connection that closes without "bye": that process has died
    rank 3 ──┘               rank 0 names it to the others; they detect a lost rank 0 themselves

A collective over GPUs may wait for a lost process for half an hour. Each process reports the lost one, has
some seconds to exit by itself and is then stopped. A machine without power is detected by keep-alive.

A connection is accepted if its first line contains the secret of this run, which the processes read from
their store. Any other connection is closed and has no effect.

torchrun's agent does not replace this and launch.py. Tried with torch 2.13: its exit code is always 1, a
failure is 42 lines, and 45 seconds after one of two agents was killed the other had not noticed, neither with
static nor with c10d rendezvous.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from dataclasses import dataclass

from xtuner.language import translate

GRACE_SECONDS = 10.0
# Time limit of a connection's first line; a process of the run sends it at once.
HELLO_SECONDS = 10.0
MAX_HELLO = 512
MAX_STRANGERS = 64
_BYE = b"bye"


@dataclass
class _Guest:
    """A connection to rank 0; it has no name until its first line contains the secret."""

    connection: socket.socket
    deadline: float
    received: bytes = b""
    name: str | None = None


class Watch:
    """The connections of this process; nothing is sent while all processes run."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._left = False
        self._peers: dict[int, socket.socket] = {}
        self._server: socket.socket | None = None
        self._secret = ""

    def listen(self, host: str) -> tuple[int, str]:
        """Listen on rank 0, with the address `host`; returns the port and the secret."""
        self._server = _server_at(host, backlog=self.size + MAX_STRANGERS)
        self._secret = secrets.token_hex(16)
        threading.Thread(target=self._watch_all, daemon=True).start()
        return self._server.getsockname()[1], self._secret

    def join(self, host: str, port: int, secret: str) -> None:
        """Connect to rank 0."""
        connection = socket.create_connection((host, port), timeout=60)
        connection.settimeout(None)
        _keep_alive(connection)
        connection.sendall(f"{secret} {self.rank} {socket.gethostname()}\n".encode())
        self._peers[0] = connection
        threading.Thread(target=self._watch_first, args=(connection,), daemon=True).start()

    def leave(self) -> None:
        """Announce that this process ends normally."""
        self._left = True
        for connection in list(self._peers.values()):
            _send(connection, _BYE)

    def _watch_all(self) -> None:
        assert self._server is not None
        guests: dict[socket.socket, _Guest] = {}
        with selectors.DefaultSelector() as selector:
            selector.register(self._server, selectors.EVENT_READ)
            while not self._left:
                for key, _ in selector.select(timeout=1.0):
                    if key.fileobj is self._server:
                        if guest := self._accept():
                            guests[guest.connection] = guest
                            selector.register(guest.connection, selectors.EVENT_READ)
                    elif not self._receive(guests[key.fileobj]):  # type: ignore[index]
                        _drop(selector, guests, key.fileobj)  # type: ignore[arg-type]
                self._drop_strangers(selector, guests)

    def _accept(self) -> _Guest | None:
        assert self._server is not None
        try:
            connection, _ = self._server.accept()
            connection.setblocking(False)
            _keep_alive(connection)
        except OSError:  # it was closed again, or this process has too many open files
            return None
        return _Guest(connection, time.monotonic() + HELLO_SECONDS)

    def _receive(self, guest: _Guest) -> bool:
        """Read the data that `guest` has sent; returns whether to keep its connection."""
        try:
            more = guest.connection.recv(1024)
        except BlockingIOError:
            return True
        except OSError:
            more = b""
        guest.received += more
        if guest.name is None and b"\n" in guest.received:
            hello, _, guest.received = guest.received.partition(b"\n")
            if not self._admit(guest, hello):
                return False
        if guest.name is None:
            return more != b"" and len(guest.received) <= MAX_HELLO
        if guest.received.startswith(_BYE):
            return False
        if more == b"" and not self._left:
            for other in list(self._peers.values()):
                _send(other, guest.name.encode())
            self._end(guest.name)
        return more != b""

    def _admit(self, guest: _Guest, hello: bytes) -> bool:
        secret, _, rest = hello.partition(b" ")
        rank, _, host = rest.decode("utf-8", "replace").partition(" ")
        if not hmac.compare_digest(secret, self._secret.encode()) or not rank.isdecimal():
            return False
        self._peers[int(rank)] = guest.connection
        guest.name = f"rank {rank} on {host}"
        return True

    def _drop_strangers(self, selector: selectors.BaseSelector, guests: dict[socket.socket, _Guest]) -> None:
        """Close connections without a name after their deadline, and the oldest if there are too many."""
        unnamed = [guest for guest in guests.values() if guest.name is None]
        too_many = len(unnamed) - self.size - MAX_STRANGERS
        for number, guest in enumerate(unnamed):
            if number < too_many or time.monotonic() > guest.deadline:
                _drop(selector, guests, guest.connection)

    def _watch_first(self, connection: socket.socket) -> None:
        word = _receive(connection)
        if word != _BYE and not self._left:
            self._end(word.decode() or "rank 0")

    def _end(self, who: str) -> None:
        what = translate("rank {rank}: {who} is lost; this process ends", rank=self.rank, who=who)
        sys.stderr.write(f"xtuner: error: {what}\n")
        time.sleep(GRACE_SECONDS)
        os._exit(1)


def _server_at(host: str, backlog: int) -> socket.socket:
    """A server on the interface with the address `host`, or on all if this machine has no such address."""
    with contextlib.suppress(OSError):
        family, _, _, _, (address, *_) = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
        # In /etc/hosts the name of a machine is often a loopback address, which others cannot reach.
        if host in (address, "localhost") or not ipaddress.ip_address(address).is_loopback:
            return socket.create_server((address, 0), family=family, backlog=backlog)
    return socket.create_server(("", 0), backlog=backlog)  # for example if it is the address of a service


def _drop(
    selector: selectors.BaseSelector, guests: dict[socket.socket, _Guest], connection: socket.socket
) -> None:
    selector.unregister(connection)
    del guests[connection]
    connection.close()


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # After ten seconds of silence three probes, five seconds apart.
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
