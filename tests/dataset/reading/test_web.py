"""Files of the web that others name: public addresses alone, with limits of size and time."""

from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from xtuner.dataset.reading import web
from xtuner.errors import DataError

PUBLIC, PRIVATE = "127.0.0.1", "127.0.0.2"  # stand-ins on this machine


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.asked.append((self.path, self.headers["Host"]))
        kind, _, rest = self.path[1:].partition("/")
        if kind == "to":
            self.send_response(302)
            self.send_header("Location", rest)
            self.end_headers()
            return
        self.send_response(404 if kind == "missing" else 200)
        if kind == "announced":
            self.send_header("Content-Length", "1000")
        self.end_headers()
        try:
            for _ in range(int(rest or 1)):
                self.wfile.write(b"x" * 10)
                if kind == "slow":
                    time.sleep(0.1)
        except OSError:
            pass


def serving(host, port=0):
    server = ThreadingHTTPServer((host, port), _Handler)
    server.asked = []
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


@pytest.fixture
def servers(monkeypatch):
    """A server at a public address and one at a private address, at the same port."""
    public = serving(PUBLIC)
    private = serving(PRIVATE, public.server_address[1])
    monkeypatch.setattr(web, "is_public", lambda address: address == PUBLIC)
    yield public, private
    for server in (public, private):
        server.shutdown()
        server.server_close()


@pytest.fixture
def resolve(monkeypatch):
    """Function that lets names of hosts resolve to the given addresses, one list for each time."""
    found = {}
    plain = socket.getaddrinfo

    def lookup(host, port, *args, **kwargs):
        if host not in found:
            return plain(host, port, *args, **kwargs)
        addresses = found[host].pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return lambda host, *times: found.update({host: list(times)})


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("::ffff:93.184.216.34", True),
        *((address, False) for address in (
            "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
            "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1",
            "::ffff:127.0.0.1", "::ffff:169.254.169.254", "2002:7f00:1::", "64:ff9b::a00:1",
        )),
    ],
)  # fmt: skip
def test_public_addresses(address, public):
    """Not those of this machine, its networks or a cloud's settings, in whatever form they are written."""
    assert web.is_public(address) is public


def test_content_is_read_from_the_address_that_was_checked(servers, resolve):
    """A name is resolved once for each connection, so that the next answer of its server changes nothing."""
    public, private = servers
    port = public.server_address[1]
    resolve("images.test", [PUBLIC], [PRIVATE])
    assert web.read_public(f"http://images.test:{port}/plain/3", 1000, 5.0) == b"x" * 30
    assert public.asked == [("/plain/3", f"images.test:{port}")]
    with pytest.raises(DataError, match=r"images\.test is not fetched from: it is no public address"):
        web.read_public(f"http://images.test:{port}/plain/3", 1000, 5.0)
    resolve("mixed.test", [PUBLIC, PRIVATE])
    with pytest.raises(DataError, match=r"mixed\.test is not fetched from"):
        web.read_public(f"http://mixed.test:{port}/plain", 1000, 5.0)
    assert private.asked == []


def test_redirects_are_checked(servers, monkeypatch):
    """One within public addresses is followed, one to another network, to a file or without end is not."""
    public, private = servers
    port = public.server_address[1]
    base = f"http://{PUBLIC}:{port}"
    assert web.read_public(f"{base}/to/{base}/plain/2", 1000, 5.0) == b"x" * 20
    with pytest.raises(DataError, match=f"{PRIVATE} is not fetched from: it is no public address"):
        web.read_public(f"{base}/to/http://{PRIVATE}:{port}/plain", 1000, 5.0)
    for target in ("file:///etc/passwd", f"ftp://{PRIVATE}:{port}/x", "data:text/plain,x"):
        with pytest.raises(DataError, match="cannot be fetched"):
            web.read_public(f"{base}/to/{target}", 1000, 5.0)
    with pytest.raises(DataError, match=r"cannot be fetched: .*redirect error"):
        web.read_public(f"{base}/to/" * 7 + f"{base}/plain", 1000, 5.0)
    # No proxy connects in place of this code.
    monkeypatch.setenv("http_proxy", f"http://{PRIVATE}:{port}")
    assert web.read_public(f"{base}/plain", 1000, 5.0) == b"x" * 10
    assert private.asked == []


def test_limits(servers):
    """Of bytes, announced or not, and of time, also for a server that sends byte by byte."""
    base = f"http://{PUBLIC}:{servers[0].server_address[1]}"
    assert len(web.read_public(f"{base}/plain/10", 100, 5.0)) == 100
    for path in ("plain/11", "announced"):
        with pytest.raises(DataError, match="has more than 100 bytes"):
            web.read_public(f"{base}/{path}", 100, 5.0)
    with pytest.raises(DataError, match=r"ended before its last byte|cannot be fetched"):
        web.read_public(f"{base}/announced", 5000, 5.0)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"it took more than 0\.5 seconds"):
        web.read_public(f"{base}/slow/100", 5000, 0.5)
    assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("http://{host}/missing", "404"),
        ("http://user@{host}:x/", "cannot be fetched"),
        ("ftp://{host}/", "no address"),
    ],
)
def test_what_fails_is_one_line(servers, path, reason):
    """An error names the address and the reason."""
    host = f"{PUBLIC}:{servers[0].server_address[1]}"
    with pytest.raises(DataError, match=reason) as error:
        web.read_public(path.format(host=host), 100, 5.0)
    assert "\n" not in str(error.value)
