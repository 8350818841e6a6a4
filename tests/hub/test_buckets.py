"""Folders of buckets by the packages of their protocols, against servers that speak their HTTP."""

from __future__ import annotations

import contextlib
from pathlib import Path

import fsspec
import pytest

from xtuner.dataset.reading.load import load_dataset
from xtuner.errors import NotFoundError
from xtuner.model_address import local_model

CONTENTS = {"config.json": b"{}", "model.safetensors": b"w" * 5000, "parts/a.bin": b"p"}


@contextlib.contextmanager
def s3(monkeypatch):
    """s3fs and moto's server."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: make trackers")
    server_of = pytest.importorskip("moto.server", reason="moto is not installed: make trackers")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testsecret")
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        yield "s3"
    finally:
        server.stop()


@contextlib.contextmanager
def gs(monkeypatch):
    """gcsfs and an emulator of Google Cloud Storage."""
    pytest.importorskip("gcsfs", reason="gcsfs is not installed: make trackers")
    emulator = pytest.importorskip(
        "gcp_storage_emulator.server", reason="gcp-storage-emulator is not installed: make trackers"
    )
    server = emulator.create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    try:
        host, port = server._api._httpd.server_address
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{host}:{port}")
        yield "gs"
    finally:
        server.stop()


@pytest.fixture(params=[s3, gs], ids=["s3", "gs"])
def address(request, monkeypatch, tmp_path):
    """A bucket with the folder of a model and a file of rows."""
    monkeypatch.setenv("XTUNER_CACHE", str(tmp_path / "cache"))
    with request.param(monkeypatch) as protocol:
        type(fsspec.filesystem(protocol)).clear_instance_cache()
        system = fsspec.filesystem(protocol)
        system.mkdir("bucket")
        for name, content in CONTENTS.items():
            system.pipe_file(f"bucket/model/{name}", content)
        system.pipe_file("bucket/rows.jsonl", b'{"a": 1}\n{"a": 2}\n')
        yield f"{protocol}://bucket"
        type(system).clear_instance_cache()


def contents(folder):
    found = [p for p in Path(folder).rglob("*") if p.is_file()]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def test_a_folder_and_a_file_of_a_bucket(address):
    """The folder is copied once, the file is read, and a folder that is not there is one line."""
    folder = local_model(f"{address}/model")
    assert contents(folder) == CONTENTS
    assert local_model(f"{address}/model") == folder
    assert [row["a"] for row in load_dataset(f"{address}/rows.jsonl")["train"]] == [1, 2]
    with pytest.raises(NotFoundError, match=rf"{address}/nothing cannot be downloaded"):
        local_model(f"{address}/nothing")
