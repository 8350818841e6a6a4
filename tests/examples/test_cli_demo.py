"""The smallest chat script answers."""

import io
import runpy
import shutil
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "cli_demo.py"


def test_it_talks_until_an_empty_line(llama_dir, tmp_path, monkeypatch, capsys):
    """Each question has an answer in the template that the model was trained with; an empty line ends."""
    folder = shutil.copytree(llama_dir, tmp_path / "merged")
    (folder / "xtuner_config.py").write_text("prompt_template = 'internlm2_chat'\n")
    monkeypatch.setattr("sys.argv", ["cli_demo.py", str(folder)])
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\nwho are you?\n\nnever read\n"))
    left = runpy.run_path(str(SCRIPT), run_name="__main__")
    assert [turn.text for turn in left["session"].turns] == ["hello", "who are you?"]
    out = capsys.readouterr().out
    assert out.count("User >>> ") == 3
    for turn in left["session"].turns:
        assert f"Model >>> {turn.answer_text}\n" in out


def test_it_has_about_twenty_lines():
    """Small enough to be read at a glance."""
    lines = [line for line in SCRIPT.read_text().splitlines() if line.strip()]
    assert len(lines) <= 22


def test_without_an_argument_it_takes_the_path_at_its_top(llama_dir, tmp_path, monkeypatch):
    """As in the tutorial: python cli_demo.py."""
    shutil.copytree(llama_dir, tmp_path / "merged")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["cli_demo.py"])
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert runpy.run_path(str(SCRIPT), run_name="__main__")["session"].turns == []
