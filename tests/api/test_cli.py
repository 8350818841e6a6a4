"""The command line: its commands, its exit codes."""

import contextlib
import os
import subprocess
import sys

import pytest

from xtuner import __version__
from xtuner.cli import COMMANDS, main, usage


def test_the_commands_are_these():
    assert list(COMMANDS) == [
        "demo",
        "env",
        "list-cfg",
        "copy-cfg",
        "new-cfg",
        "check",
        "check-custom-dataset",
        "log-dataset",
        "list-dataset-format",
        "preprocess table",
        "preprocess split",
        "preprocess arxiv",
        "preprocess refcoco",
        "preprocess tokenize",
        "train",
        "dist_train",
        "sweep",
        "replay",
        "test",
        "report",
        "convert pth_to_hf",
        "convert checkpoint",
        "convert average",
        "convert merge",
        "convert expand",
        "convert split",
        "convert quantize",
        "convert gguf",
        "convert ollama",
        "push",
        "chat",
        "serve",
        "eval",
        "predict",
        "compare",
        "score",
        "mmbench",
        "eval_refcoco",
        "web",
    ]


@pytest.mark.parametrize("words", [[], ["--help"], ["help"], ["-h"]])
def test_help_is_the_usage(words, capsys):
    assert main(words) == 0
    assert capsys.readouterr().out == usage() + "\n"


@pytest.mark.parametrize(
    "words", [["--help"], ["convert", "--help"], *([*c.split(), "--help"] for c in COMMANDS)]
)
def test_help_fits_a_terminal_of_80_columns(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with contextlib.suppress(SystemExit):
        main(words)
    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 80] == []


def test_version(capsys):
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    assert end.value.code == 0
    assert f"usage: xtuner {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["trian"], 2, "there is no command 'trian'. Did you mean 'train'?"),
        (
            ["convert"],
            2,
            "convert needs one of: pth_to_hf, checkpoint, average, merge, expand, split, quantize, gguf",
        ),
        (["preprocess", "tabel", "x"], 2, "Did you mean 'preprocess table'"),
        (["log-dataset", "no_such_config.py"], 1, "there is no config file 'no_such_config.py'"),
        (["convert", "mergee"], 2, "Did you mean 'convert merge'"),
        (["train", "no_such_config.py"], 1, "there is no config file 'no_such_config.py'"),
        (["train", "internlm2_chat_1_8b_qlora_alpcaa_e3"], 1, "'internlm2_chat_1_8b_qlora_alpaca_e3'"),
        (["copy-cfg", "internlm2_chat_1_8b_qlora_alpcaa_e3", "x"], 1, "Did you mean"),
    ],
)
def test_a_failure_is_one_line_and_a_code(words, code, message, capsys):
    assert main(words) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_debug_shows_the_traceback():
    with pytest.raises(Exception, match="there is no config file"):
        main(["train", "none.py", "--debug"])


def test_a_real_process_ends_with_the_code():
    run = subprocess.run([sys.executable, "-m", "xtuner", "trian"], capture_output=True, env=os.environ)
    assert run.returncode == 2


def test_a_process_that_loaded_models_code_ends_without_a_word():
    """On its way out Python takes apart what libraries expect it to, triton's compiled module above all."""
    code = "import transformers.masking_utils; from xtuner.cli import entry; entry()"
    run = subprocess.run([sys.executable, "-c", code, "version"], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


def test_a_signal_after_the_work_ends_the_process_without_a_word():
    """A process that is on its way out has nothing left to close; raising there would print a traceback."""
    late = "import atexit, os, signal; atexit.register(os.kill, os.getpid(), signal.SIGTERM)"
    code = f"{late}; from xtuner.cli import entry; entry()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (-15, "")


FLAGS = {
    "test": "--checkpoint --checkpoints --tasks --shots --limit --metrics --max-new-tokens --work-dir",
    "convert average": "--last --weights --exact",
    "eval": "--tasks --samples --code-from --code-seconds --code-memory --temperature --top-p --seed",
    "replay": "--updates --tolerance --config --cfg-options --save --json --launcher",
    "compare": "--base --limit --work-dir --vote --blind --host --port --temperature --seed --metrics",
}


@pytest.mark.parametrize("command", FLAGS)
def test_flags_of_commands_that_compare(command, capsys):
    """Scripts of users have them."""
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    assert set(FLAGS[command].split()) - set(capsys.readouterr().out.replace("[", " ").split()) == set()
