"""`xtuner eval --harness` where lm-eval is missing, and options that do not go together."""

from __future__ import annotations

import sys

import pytest

from xtuner import cli


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--harness"], "--harness needs the package lm-eval: "),
        (["--include-path", "x"], "--include-path is for --harness: add it, or leave --include-path out"),
        (["--harness", "--metrics", "exact"], "--metrics has no effect with --harness"),
        (["--harness", "--max-new-tokens", "8"], "--max-new-tokens has no effect with --harness"),
    ],
)
def test_wrong_calls_are_one_line(words, message, llama_dir, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert cli.main(["eval", str(llama_dir), "--tasks", "arc_easy", *words]) == 1
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("xtuner: error: ")]
    assert message in line


def test_a_model_at_an_address_is_asked_by_lm_eval_itself(capsys):
    assert cli.main(["eval", "http://127.0.0.1:9/v1", "--tasks", "arc_easy", "--harness"]) == 1
    assert "lm-eval itself asks one at an address" in capsys.readouterr().err
