"""Every command that names a model takes one at an address."""

import argparse
from pathlib import Path

import fsspec
import pytest

from xtuner import cli
from xtuner.chat.server.serve import ServeSettings
from xtuner.paths import check_adapter_path, name_and_place
from xtuner.tools.arguments.addresses import fetch_adapters

PLACE = "memory://no/model"
COMMANDS = [
    ["chat", PLACE],
    ["serve", PLACE],
    ["eval", PLACE, "--tasks", "q.jsonl"],
    ["predict", PLACE, "q.jsonl", "out.jsonl"],
    ["compare", PLACE, "hf://owner/other", "q.jsonl"],
    ["score", PLACE, "q.jsonl"],
    ["mmbench", PLACE, "--data-path", "q.jsonl"],
    ["eval_refcoco", PLACE, "--data-path", "q.jsonl"],
    ["convert", "merge", PLACE, "adapter", "out"],
    ["convert", "expand", PLACE, "out"],
    ["convert", "split", PLACE, "out"],
    ["convert", "quantize", PLACE, "out"],
    ["convert", "gguf", PLACE, "out.gguf"],
    ["convert", "ollama", PLACE, "out"],
    ["new-cfg", "--model", PLACE, "--data", "q.jsonl"],
    ["web", PLACE],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words).partition(" mem")[0])
def test_a_model_at_an_address_is_looked_for_there(command, tmp_path, monkeypatch, capsys):
    """One line says that it cannot be copied from there; it is not taken for a folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    (tmp_path / "adapter").mkdir()
    assert cli.main(command) == 1
    assert f"{PLACE} cannot be downloaded" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["serve"], ["web"], ["chat"], ["eval", "--tasks", "q.jsonl"]])
@pytest.mark.parametrize("adapter", ["memory://no/poet", "poet=memory://no/poet"])
def test_an_adapter_at_an_address_is_looked_for_there(
    words, adapter, tmp_path, llama_dir, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    if adapter.startswith("poet=") and words[0] not in ("serve", "web"):
        pytest.skip("the command has one adapter, without a name")
    assert cli.main([words[0], str(llama_dir), *words[1:], "--adapter", adapter]) == 1
    assert "memory://no/poet cannot be downloaded" in capsys.readouterr().err


def test_adapters_of_a_server_keep_their_names(adapter_dir, monkeypatch, tmp_path):
    """The last part of the address, or the name before it; folders stay as they are."""
    monkeypatch.setenv("XTUNER_CACHE", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    system.put(str(adapter_dir), "/bucket/poet", recursive=True)
    given = ["memory://bucket/poet", "calm=memory://bucket/poet", "dry=lora/dry", "lora/wet"]
    args = argparse.Namespace(adapter=given)
    fetch_adapters(args)
    found = ServeSettings("base", adapters=args.adapter).named_adapters()
    assert list(found) == ["poet", "calm", "dry", "wet"]
    assert (found["dry"], found["wet"]) == ("lora/dry", "lora/wet")
    for name in ("poet", "calm"):
        check_adapter_path(found[name])
        assert Path(found[name]).is_relative_to(tmp_path / "cache")


def test_an_address_may_hold_an_equals_sign():
    assert name_and_place("s3://bucket/date=1/poet") == ("", "s3://bucket/date=1/poet")
    assert name_and_place("a=s3://bucket/date=1/poet") == ("a", "s3://bucket/date=1/poet")
