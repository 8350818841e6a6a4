"""Files of the web: for the user's own addresses, or for addresses that others send.

    opened("https://host/cat.jpg")                       as the user's own programs open it
    read_public("https://host/cat.jpg", ...)             its content, if every address on the way is public

    host ──resolved once──> 93.184.216.34 ──is public──> connected to that address; a redirect starts again

So a name that resolves to another address the second time (DNS rebinding), or a redirect, reaches no service
of the machine or its network.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import xtuner
from xtuner.data_files import WEB
from xtuner.errors import DataError
from xtuner.language import translate

_HEADERS = {"User-Agent": f"xtuner/{xtuner.__version__}"}
_BLOCK = 1 << 16
_MAX_REDIRECTS = 5
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def opened(address: str, timeout_s: float) -> Any:
    """The response of the web for `address`; raises the errors of urllib."""
    request = urllib.request.Request(address, headers=_HEADERS)
    try:
        return urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()  # it is a response too
        raise


def read_public(address: str, max_bytes: int, timeout_s: float, max_length: int = 2000) -> bytes:
    """The content at `address`, read within `timeout_s` seconds in all; DataError of one line if it fails.

    No connection is made to an address that is not public, and no proxy is used.
    """
    if not address.lower().startswith(WEB) or len(address) > max_length:
        raise DataError(translate("{address:.200} is no address of the web", address=address))
    name, deadline = address[:200], time.monotonic() + timeout_s
    request = urllib.request.Request(address, headers=_HEADERS)
    with _closing_at(deadline) as watch:
        try:
            with _opener(watch, deadline).open(request, timeout=timeout_s) as response:
                body = _read(response, name, max_bytes)
            # A connection that was shut looks like the end of a body without a length.
            if time.monotonic() >= deadline:
                raise TimeoutError
            return body
        except DataError:
            raise
        # Connections and servers fail in many ways, also with ValueError.
        except (OSError, http.client.HTTPException, ValueError, UnicodeError) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            if time.monotonic() >= deadline:
                what = "{address} cannot be fetched: it took more than {seconds:g} seconds"
                raise DataError(translate(what, address=name, seconds=timeout_s)) from error
            reason = error.reason if type(error) is urllib.error.URLError else error
            if isinstance(reason, DataError):
                raise reason from error
            first = (str(reason).strip().splitlines() or [type(error).__name__])[0]
            raise DataError(
                translate("{address} cannot be fetched: {reason:.200}", address=name, reason=first)
            ) from error


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, also if it is wrapped in another."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = [found.ipv4_mapped, found.sixtofour, *(found.teredo or ())]
        inner += [ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)] if found in _NAT64 else []
        if not all(is_public(str(one)) for one in inner if one is not None):
            return False
        if found.ipv4_mapped is not None:
            return True
    special = found.is_private or found.is_loopback or found.is_link_local or found.is_multicast
    return found.is_global and not (special or found.is_reserved or found.is_unspecified)


def _read(response: Any, name: str, max_bytes: int) -> bytes:
    """The whole body; DataError if it has more than `max_bytes` or ends early."""
    too_large = translate("{address} has more than {count:,} bytes", address=name, count=max_bytes)
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise DataError(too_large)
    body = bytearray()
    while block := response.read(_BLOCK):
        body += block
        if len(body) > max_bytes:
            raise DataError(too_large)
    if announced.isdigit() and len(body) < int(announced):
        raise DataError(translate("{address} ended before its last byte", address=name))
    return bytes(body)


# --- connections -------------------------------------------------------------------------------------------

Watch = Callable[[socket.socket], None]


@contextlib.contextmanager
def _closing_at(deadline: float) -> Iterator[Watch]:
    """A function that adds a socket to those that are shut at `deadline`: a server may send byte by byte."""
    sockets: list[socket.socket] = []

    def shut() -> None:
        for one in list(sockets):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(one, socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), shut)
    timer.daemon = True
    timer.start()
    try:
        yield sockets.append
    finally:
        timer.cancel()
        for one in sockets:
            one.close()


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """A connection to a public address of `host`; DataError if any of its addresses is another."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(map(is_public, addresses)):
        raise DataError(translate("{host:.200} is not fetched from: it is no public address", host=host))
    failure: OSError | None = None
    for address in addresses:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        try:
            # A number is not resolved again.
            return socket.create_connection((address, port), timeout=left)
        except OSError as error:
            failure = error
    raise failure or TimeoutError(translate("no time is left"))


def _opener(watch: Watch, deadline: float) -> urllib.request.OpenerDirector:
    """Opens http and https alone, each connection to a public address; `watch` gets its sockets."""

    def connected(connection: http.client.HTTPConnection) -> socket.socket:
        found = _connect(connection.host, connection.port, deadline)
        watch(found)
        return found

    class Http(http.client.HTTPConnection):
        def connect(self) -> None:
            self.sock = connected(self)

    class Https(http.client.HTTPSConnection):
        def connect(self) -> None:
            context = ssl.create_default_context()
            secured = context.wrap_socket(connected(self), server_hostname=self.host)
            watch(secured)
            self.sock = secured

    class OpensHttp(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> Any:
            return self.do_open(Http, request)

    class OpensHttps(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> Any:
            return self.do_open(Https, request)

    class Redirects(urllib.request.HTTPRedirectHandler):
        max_redirections = _MAX_REDIRECTS

    opener = urllib.request.OpenerDirector()
    handlers = (OpensHttp, OpensHttps, Redirects, urllib.request.HTTPErrorProcessor)
    for kind in (*handlers, urllib.request.HTTPDefaultErrorHandler, urllib.request.UnknownHandler):
        opener.add_handler(kind())
    return opener
