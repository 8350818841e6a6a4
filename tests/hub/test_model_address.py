"""A model's folder at an address is copied once, complete or absent."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from xtuner.config import parse_config
from xtuner.errors import XTunerError
from xtuner.model_address import local_model, use_local_models

CONTENTS = {"config.json": b"{}", "model.safetensors": b"w" * 5000, "parts/a.bin": b"p"}


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A folder in fsspec's memory, and a cache of this test."""
    monkeypatch.setenv("XTUNER_CACHE", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    for name, content in {**CONTENTS, ".hidden": b"h"}.items():
        system.pipe_file(f"/bucket/model/{name}", content)
    yield system
    system.rm("/bucket", recursive=True)


def contents(folder):
    found = [p for p in Path(folder).rglob("*") if p.is_file()]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def test_a_folder_is_copied_once_and_again_when_it_has_changed(bucket):
    folder = local_model("memory://bucket/model/")
    assert folder.endswith("/model")
    assert contents(folder) == CONTENTS
    assert local_model("memory://bucket/model") == folder
    bucket.pipe_file("/bucket/model/config.json", b'{"a": 1}')
    other = local_model("memory://bucket/model")
    assert other != folder
    assert contents(other)["config.json"] == b'{"a": 1}'


def test_a_download_that_is_cut_off_leaves_nothing(bucket, monkeypatch, tmp_path):
    """The size of each file is compared with the bucket's."""
    real = type(bucket).get_file

    def cut(self, source, target, **more):
        real(self, source, target, **more)
        if source.endswith("safetensors"):
            with open(target, "rb+") as file:
                file.truncate(100)

    monkeypatch.setattr(type(bucket), "get_file", cut)
    with pytest.raises(XTunerError, match=r"model\.safetensors has 100 bytes instead of 5,000"):
        local_model("memory://bucket/model")
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []


def test_the_copy_of_an_earlier_run_is_used_without_a_connection(bucket, monkeypatch, capsys):
    folder = local_model("memory://bucket/model")

    def fail(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(type(bucket), "find", fail)
    assert local_model("memory://bucket/model") == folder
    monkeypatch.undo()
    said = capsys.readouterr().err
    assert "downloading memory://bucket/model: 3 files, 5,003 bytes" in said
    assert "cannot be reached: the copy of an earlier run is used (no route to host)" in said


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("memory://bucket/nothing", "memory://bucket/nothing cannot be downloaded: there are no files"),
        ("s4://bucket/x", "s4://bucket/x: the protocol 's4' is not known"),
    ],
)
def test_an_address_without_a_model_is_one_line(bucket, address, message):
    with pytest.raises(XTunerError, match=message):
        local_model(address)


def test_other_names_stay_and_hf_is_the_hubs(tmp_path):
    assert local_model("./model") == "./model"
    assert local_model("Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"
    assert local_model("hf://Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"
    assert local_model("https://host:8000/v1") == "https://host:8000/v1"


def test_every_model_of_a_config_is_local_and_its_text_keeps_the_address(bucket):
    text = (
        "path = 'memory://bucket/model'\n"
        "tokenizer = dict(pretrained_model_name_or_path=path)\n"
        "model = dict(llm=dict(pretrained_model_name_or_path=path))\n"
        "custom_hooks = [dict(tokenizer=tokenizer)]\n"
    )
    config = parse_config(text, "a.py")
    use_local_models(config)
    folder = local_model("memory://bucket/model")
    assert config.model.llm.pretrained_model_name_or_path == folder
    assert config.tokenizer.pretrained_model_name_or_path == folder
    assert config.custom_hooks[0].tokenizer is config.tokenizer
    assert "memory://bucket/model" in config.text
