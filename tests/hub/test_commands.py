"""Every command that names a model takes one at an address."""

import pytest

from xtuner import cli

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
