"""A process lost on another machine stops the others, which name it."""

import ipaddress
import socket
import subprocess
import sys

import pytest

from xtuner.parallel import watch

# Plain sockets: neither torch nor a launcher. Each prints a line when it has joined.
FIRST = """
import sys, time
from xtuner.parallel import watch
watch.GRACE_SECONDS, watch.HELLO_SECONDS = 0.1, 1.0
here = watch.Watch(0, 3)
print(*here.listen("127.0.0.1"), flush=True)
sys.stdin.readline()
{end}
"""
OTHER = """
import sys, time
from xtuner.parallel import watch
watch.GRACE_SECONDS = 0.1
here = watch.Watch({rank}, 3)
here.join("127.0.0.1", {port}, "{secret}")
print("joined", flush=True)
sys.stdin.readline()
here.leave()
"""


class Process(subprocess.Popen):
    """A Python process with its output."""

    def __init__(self, code):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        super().__init__([sys.executable, "-c", code], text=True, **pipes)

    def go_on(self):
        self.stdin.write("\n")
        self.stdin.flush()


@pytest.fixture
def three():
    """Ranks 0, 1, 2, joined; rank 0 leaves on request."""
    processes = first_of_three()
    join(processes)
    yield processes
    end(processes)


@pytest.fixture
def first():
    """Rank 0 alone, in a list to which the others are added as they join."""
    processes = first_of_three()
    yield processes
    end(processes)


def first_of_three():
    first = Process(FIRST.format(end="here.leave()"))
    first.port, first.secret = first.stdout.readline().split()
    return [first]


def join(processes):
    """Let ranks 1 and 2 join rank 0, the only one in `processes`."""
    where = {"port": processes[0].port, "secret": processes[0].secret}
    processes += [Process(OTHER.format(rank=rank, **where)) for rank in (1, 2)]
    for process in processes[1:]:
        assert process.stdout.readline() == "joined\n"


def end(processes):
    for process in processes:
        process.kill()
        process.communicate()


def ends(process):
    # communicate() would close stdin, which they take as word to go on.
    code = process.wait(timeout=20)
    return code, process.stderr.read()


def test_a_lost_process_is_named_by_all(three):
    three[2].kill()
    code, said = ends(three[0])
    assert (code, said.startswith("xtuner: error: rank 0: rank 2 on ")) == (1, True)
    code, said = ends(three[1])
    assert (code, said.startswith("xtuner: error: rank 1: rank 2 on ")) == (1, True)
    assert said.endswith(" is lost; this process ends\n")


def test_a_lost_rank_0_is_noticed_by_the_others(three):
    three[0].kill()
    assert [ends(p) for p in three[1:]] == [
        (1, f"xtuner: error: rank {rank}: rank 0 is lost; this process ends\n") for rank in (1, 2)
    ]


def test_a_process_that_leaves_is_not_reported(three):
    for process in (three[1], three[2], three[0]):
        process.go_on()
        assert ends(process) == (0, "")


def come_and_go(address):
    socket.create_connection(address).close()
    return []


def stay_silent(address):
    return [socket.create_connection(address)]


def forge(address):
    connection = socket.create_connection(address)
    connection.sendall(b"0" * 32 + b" 1 elsewhere\n")
    return [connection]


def say_nonsense(address):
    connection = socket.create_connection(address)
    connection.sendall(b"\xff\x00 GET / HTTP/1.1\r\n\r\n")
    return [connection]


def never_end_a_line(address):
    connection = socket.create_connection(address)
    connection.sendall(b"x" * 2000)
    return [connection]


def be_many(address):
    return [socket.create_connection(address) for _ in range(100)]


STRANGERS = (come_and_go, stay_silent, forge, say_nonsense, never_end_a_line, be_many)


@pytest.mark.parametrize("stranger", STRANGERS, ids=lambda f: f.__name__)
def test_a_stranger_has_no_effect(first, stranger):
    """Before and after the others join, the run continues, and a lost process is still named."""
    address = ("127.0.0.1", int(first[0].port))
    before = stranger(address)
    join(first)
    after = stranger(address)
    assert [p.poll() for p in first] == [None] * 3
    first[2].kill()
    for rank in (0, 1):
        code, said = ends(first[rank])
        assert (code, said.startswith(f"xtuner: error: rank {rank}: rank 2 on ")) == (1, True)
    for connection in (*before, *after):
        connection.close()


def test_a_stranger_is_closed(first):
    """A silent connection is closed after a time."""
    (connection,) = stay_silent(("127.0.0.1", int(first[0].port)))
    connection.settimeout(10)
    assert connection.recv(1) == b""
    assert first[0].poll() is None
    connection.close()


@pytest.mark.parametrize(
    ("host", "is_narrow"), [("127.0.0.1", True), ("localhost", True), ("192.0.2.7", False)]
)
def test_rank_0_listens_on_the_interface_of_its_address(host, is_narrow):
    """It listens on all interfaces only if the address is not one of this machine."""
    with watch._server_at(host, 3) as server:
        address = ipaddress.ip_address(server.getsockname()[0])
        assert (address.is_loopback, address.is_unspecified) == (is_narrow, not is_narrow)


def test_a_hostname_that_is_a_loopback_address_means_all_interfaces(monkeypatch):
    """Debian's /etc/hosts has 127.0.1.1 for the hostname; other machines must be able to connect."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: found)
    with watch._server_at("node0", 3) as server:
        assert server.getsockname()[0] == "0.0.0.0"
