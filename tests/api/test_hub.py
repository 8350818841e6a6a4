"""Whether the hub can be asked."""

import importlib
import socket

import pytest
from huggingface_hub import constants

from xtuner import hub


@pytest.fixture
def is_reachable(monkeypatch):
    """The answer in a process that starts with these variables; the client reads them when it is imported."""

    def ask(**variables):
        with monkeypatch.context() as patch:
            for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT"):
                patch.delenv(name, raising=False)
            for name, value in variables.items():
                patch.setenv(name, value)
            importlib.reload(constants)
            hub.is_reachable.cache_clear()
            return hub.is_reachable()

    monkeypatch.setattr("urllib.request.getproxies", dict)
    yield ask
    importlib.reload(constants)
    hub.is_reachable.cache_clear()


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_a_mirror_that_listens_is_reachable_until_offline_is_asked_for(is_reachable, variable):
    """HF_ENDPOINT names a mirror, each of two variables forbids to ask."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        mirror = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert is_reachable(HF_ENDPOINT=mirror)
        assert not is_reachable(HF_ENDPOINT=mirror, **{variable: "1"})
    assert not is_reachable(HF_ENDPOINT=mirror)


def test_a_proxy_is_trusted(is_reachable, monkeypatch):
    """The proxy knows addresses that this machine does not."""
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "http://proxy:1"})
    assert is_reachable()
