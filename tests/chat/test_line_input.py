"""How inputs are typed, pasted and piped."""

import io

import pytest

from xtuner.chat.commands import is_command
from xtuner.chat.line_input import PROMPT, make_editor, read_inputs, without_controls

UP, LEFT, RIGHT = "\x1b[A", "\x1b[D", "\x1b[C"


def typed(keys, tmp_path, names=("/undo",), **options):
    """What the editor returns for `keys`."""
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    with create_pipe_input() as pipe:
        pipe.send_text(keys)
        history, output = tmp_path / "history", DummyOutput()
        editor = make_editor(is_command, names, history, input=pipe, output=output, **options)
        return editor.prompt()


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("who are\ryou?\r\r", "who are\nyou?\n"),
        ("helo" + LEFT + "l" + RIGHT + "\r\r", "hello\n"),
        ("RESET\r", "RESET"),
        ("/undo\r", "/undo"),
        ("/tmp is full\r\r", "/tmp is full\n"),
        ("\x1b[200~a\n\nb\x1b[201~\r\r", "a\n\nb\n"),
    ],
)
def test_the_editor(keys, text, tmp_path):
    """An empty line ends an input, a command's own line a command; what is pasted may hold empty lines."""
    assert typed(keys, tmp_path) == text


def test_commands_and_files_are_completed(tmp_path, monkeypatch):
    """A tab completes the only command that fits, and after one of files the name of a file."""
    (tmp_path / "my cat.png").touch()
    monkeypatch.chdir(tmp_path)
    from xtuner.chat.commands import COMMANDS, FILE_COMMANDS

    for keys, text in (
        ("/und\t\r", "/undo"),
        ("/im\t my\t\r", "/image my cat.png"),
        ("/save\tm\t\r", "/savem"),
    ):
        assert typed(keys, tmp_path, list(COMMANDS), of_files=FILE_COMMANDS) == text


def test_the_history_comes_back(tmp_path):
    """Inputs of an earlier dialogue are an arrow key away."""
    typed("first\r\r", tmp_path)
    assert typed(UP + "\r", tmp_path).strip() == "first"


def test_end_of_input_ends_the_editor(tmp_path):
    """Ctrl-D on an empty line ends, Ctrl-C throws away what was typed."""
    with pytest.raises(EOFError):
        typed("\x04", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        typed("some\x03", tmp_path)


def test_a_script(monkeypatch, capsys):
    """Lines until an empty one; the end of the file ends the last input."""
    monkeypatch.setattr("sys.stdin", io.StringIO("\none\r\ntwo\n\n\x00\n\n  three"))
    assert list(read_inputs(is_command)) == ["one\ntwo", "three"]
    assert capsys.readouterr().out == PROMPT * 4


def test_bytes_that_are_no_text(monkeypatch):
    """Broken UTF-8 in a pipe does not end the dialogue."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\xff\n"), encoding="utf-8"))
    assert list(read_inputs(is_command)) == ["a\ufffd"]


def test_control_characters_are_counted(caplog):
    """Control characters are removed, and their number is logged."""
    assert without_controls("a\x1b[31mb\x00\r\nc\td") == "a[31mb\nc\td"
    assert "2 control characters were left out" in caplog.text
