"""Whether the hub can be asked."""

import socket

import pytest

from xtuner import hub


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    hub.is_reachable.cache_clear()
    yield
    hub.is_reachable.cache_clear()


def test_a_mirror_that_listens_is_reachable_until_offline_is_asked_for(monkeypatch):
    """HF_ENDPOINT names a mirror, HF_HUB_OFFLINE forbids to ask."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert hub.is_reachable()
    hub.is_reachable.cache_clear()
    assert not hub.is_reachable()
    hub.is_reachable.cache_clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not hub.is_reachable()


def test_a_proxy_is_trusted(monkeypatch):
    """The proxy knows addresses that this machine does not."""
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "http://proxy:1"})
    assert hub.is_reachable()
