"""Requests over sockets: incomplete or too large ones, and the shutdown of the server."""

import asyncio
import json
import socket
import threading
import time

import httpx
import pytest
from fastapi import Request

from tests.serving import running
from xtuner.chat.server import http
from xtuner.chat.server.responses import unless_gone

HELLO = [{"role": "user", "content": "hello"}]
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def exchange(address, *pieces):
    """Everything received until the server closes the connection."""
    found = b""
    with socket.create_connection(address, timeout=20) as raw:
        for piece in pieces:
            raw.sendall(piece)
        while data := raw.recv(65536):
            found += data
    return found.decode()


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat", POST, POST + b"X: " + b"y" * 1000])
def test_half_a_head_is_not_waited_for(llama, tokenizer, monkeypatch, sent):
    """The connection of an incomplete head is closed; other requests are answered meanwhile."""
    monkeypatch.setattr(http, "HEAD_S", 0.3)
    with running(llama, tokenizer) as (address, _), socket.create_connection(address) as raw:
        raw.sendall(sent)
        assert httpx.get("http://{}:{}/health".format(*address)).status_code == 200
        raw.settimeout(10)
        assert raw.recv(1000).startswith(b"HTTP/1.1 408")
        assert raw.recv(1000) == b""


@pytest.mark.parametrize("head", [b"Content-Length: 100\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n5\r\n"])
def test_half_a_body_is_not_waited_for(llama, tokenizer, head):
    """An incomplete body is refused with a reason."""
    with running(llama, tokenizer, read_s=0.2) as (address, _):
        told = exchange(address, POST + head + b'{"mes')
    assert told.startswith("HTTP/1.1 408")
    assert "was not sent to its end in time" in told


def test_a_request_slower_than_a_head_may_be_is_answered(llama, tokenizer, monkeypatch):
    """The time limit of a head does not apply to bodies, answers or idle connections."""
    monkeypatch.setattr(http, "HEAD_S", 0.2)
    body = json.dumps({"messages": HELLO, "max_tokens": 2}).encode()
    head = POST + f"Content-Length: {len(body)}\r\n\r\n".encode()
    with running(llama, tokenizer) as (address, _), socket.create_connection(address, timeout=10) as raw:
        for _ in range(2):
            raw.sendall(head)
            time.sleep(0.4)
            raw.sendall(body)
            found = b""
            while b'"notices"' not in found:
                found += raw.recv(10_000)
            assert found.startswith(b"HTTP/1.1 200")
            time.sleep(0.4)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_too_large_is_refused_before_it_is_sent(llama, tokenizer, chunked):
    """The error is sent before the body is complete; a client that first sends all of it gets it too."""
    size = 50 * 2**20
    with running(llama, tokenizer, max_request_bytes=1000) as (address, _):
        if not chunked:
            with socket.create_connection(address, timeout=10) as raw:
                raw.sendall(POST + f"Content-Length: {size}\r\n\r\n".encode())
                assert raw.recv(10_000).startswith(b"HTTP/1.1 413")
        content = (b"x" * 2**20 for _ in range(50)) if chunked else b"x" * size
        url = "http://{}:{}/v1/chat/completions".format(*address)
        reply = httpx.post(url, content=content, headers={"content-type": "application/json"}, timeout=20)
        assert reply.status_code == 413
        assert "larger than 1000 bytes" in reply.json()["error"]["message"]


def test_a_disconnect_cancels_the_preparation():
    """The work for a request is cancelled when its client disconnects."""
    ended = []

    async def work():
        try:
            await asyncio.sleep(20)
        finally:
            ended.append(True)

    async def gone():
        await asyncio.sleep(0.05)
        return {"type": "http.disconnect"}

    async def done():
        return 7

    assert asyncio.run(unless_gone(work(), Request({"type": "http"}, gone))) is None
    assert ended == [True]
    assert asyncio.run(unless_gone(done(), Request({"type": "http"}, gone))) == 7


def test_open_streams_get_an_error_at_the_shutdown(llama, tokenizer):
    """Streams, whole answers and waiting requests get an error when the shutdown time is over."""
    llama.config.max_position_embeddings = 100_000
    body = {"messages": HELLO, "max_tokens": 90_000, "logit_bias": {"2": -100, "5": -100}}
    with running(llama, tokenizer, shutdown_s=0.3) as (address, server):
        url = "http://{}:{}/v1/chat/completions".format(*address)
        whole = []
        thread = threading.Thread(target=lambda: whole.append(httpx.post(url, json=body, timeout=20)))
        thread.start()
        while not any(connection.cycle for connection in list(server.server_state.connections)):
            time.sleep(0.01)  # until its request is there
        with httpx.stream("POST", url, json={**body, "stream": True}, timeout=20) as reply:
            lines = reply.iter_lines()
            assert next(lines).startswith("data: ")
            server.should_exit = True
            last = [line for line in lines if line][-1]
        thread.join(20)
    told = "the server was stopped before the answer was complete"
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == told
    assert (whole[0].status_code, whole[0].json()["error"]["message"]) == (503, told)
