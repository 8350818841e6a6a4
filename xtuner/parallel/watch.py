"""Notices that a process of the run is gone, on whatever machine it was.

    rank 1 ──┐
    rank 2 ──┼── rank 0      a connection that ends without "bye": that process is gone
    rank 3 ──┘               rank 0 tells the others which one; a lost rank 0 they notice themselves

A collective over GPUs may wait for a lost process for half an hour. Each process says who is gone and has
some seconds to end by itself; then it is ended. A machine without power is noticed by keep-alive.

A connection counts once its first line holds the secret of this run, which the processes get from their
store. Any other is closed without a word and without effect, be it silent, forged, or closed at once.

torchrun's agent does not take the place of this and of launch.py. Tried with torch 2.13: its exit code is 1
whatever that of a process or the signal was, a failure is 42 lines, and of two agents one had not noticed 45
seconds after the other had been killed, neither by static nor by c10d rendezvous.
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
# For the first line of a connection; a process of the run sends it at once.
HELLO_SECONDS = 10.0
MAX_HELLO = 512
MAX_STRANGERS = 64
_BYE = b"bye"


@dataclass
class _Guest:
    """A connection to rank 0: unnamed until its first line has proven that it is of this run."""

    connection: socket.socket
    deadline: float
    received: bytes = b""
    name: str | None = None


class Watch:
    """The connections of this process; nothing is sent while all is well."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._left = False
        self._peers: dict[int, socket.socket] = {}
        self._server: socket.socket | None = None
        self._secret = ""

    def listen(self, host: str) -> tuple[int, str]:
        """The port at which rank 0, at the address `host`, waits from now on, and the secret to say there."""
        self._server = _server_at(host, backlog=self.size)
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
        """Say that this process ends as it should."""
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
                    elif not self._hear(guests[key.fileobj]):  # type: ignore[index]
                        _drop(selector, guests, key.fileobj)  # type: ignore[arg-type]
                self._drop_strangers(selector, guests)

    def _accept(self) -> _Guest | None:
        assert self._server is not None
        try:
            connection, _ = self._server.accept()
            connection.setblocking(False)
            _keep_alive(connection)
        except OSError:  # one that was gone again, or more of them than this process may have open
            return None
        return _Guest(connection, time.monotonic() + HELLO_SECONDS)

    def _hear(self, guest: _Guest) -> bool:
        """Take in what `guest` has sent; whether its connection is still of use."""
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
        """Close connections that have not said in time who they are, and the oldest where they are many."""
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
    """A server on the interface with the address `host`; on all where this machine does not know which."""
    with contextlib.suppress(OSError):
        family, _, _, _, (address, *_) = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
        # The name of a machine is often its own loopback in /etc/hosts, which others cannot reach.
        if host in (address, "localhost") or not ipaddress.ip_address(address).is_loopback:
            return socket.create_server((address, 0), family=family, backlog=backlog)
    return socket.create_server(("", 0), backlog=backlog)  # such as behind the address of a service


def _drop(
    selector: selectors.BaseSelector, guests: dict[socket.socket, _Guest], connection: socket.socket
) -> None:
    selector.unregister(connection)
    del guests[connection]
    connection.close()


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
