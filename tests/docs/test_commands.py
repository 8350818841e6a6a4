"""Every command in the pages is one that the program takes."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from tests.docs.site import ROOT, reference
from xtuner import cli

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
# A line of a block; variables of the shell may precede the command.
_LINE = re.compile(r"^(?: *\$ | {4,}|)(?:[A-Z_]+=\S+ +)*xtuner +(\S.*)$")
_INLINE = re.compile(r"(?<!`)`(?:[A-Z_]+=\S+ )*xtuner ([^`\n]+)`(?!`)")
# In a sentence a command may stand for its whole kind, without what it needs.
_NEEDS = re.compile(
    r"the following arguments are required|expected .*argument|one of the arguments .* is required"
)

# Options of other programs.
OF_OTHERS = {("docs/slurm.md", f"--{name}") for name in ("gpus-per-task", "gpus-per-node", "signal")}


def commands(text: str) -> list[str]:
    """The command lines in a page, without `xtuner`: of blocks, and in backquotes."""
    found, in_fence, lines = [], False, iter(text.splitlines())
    for line in lines:
        in_fence ^= line.lstrip().startswith("```")
        if (in_fence or line.startswith("    ")) and (match := _LINE.match(line)):
            command = match[1]
            while command.endswith("\\"):
                command = command[:-1].rstrip() + " " + next(lines).strip()
            found.append(command)
        elif not in_fence:
            found += [f"{command} ..." for command in _INLINE.findall(line)]
    return found


def words_of(command: str) -> list[str]:
    """The words of a command line, without the explanation after it, brackets and `...`; N, M are numbers."""
    command = re.split(r" {2,}| +# | \||;| &$|, |: ", command)[0].rstrip(" &")
    words = shlex.split(re.sub(r"[\[\]]", " ", command))
    return ["1" if word in ("N", "M") else word for word in words if word != "..."]


def mistake(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What is wrong with a command line, or nothing."""
    words, _ = cli._without_lang([w for w in words_of(command) if w != "--debug"])
    if not words or words[0] in ("--help", "version", "COMMAND") or words[0].startswith("-"):
        return ""
    name, rest = cli._split(words)
    if name not in cli.COMMANDS:
        is_group = any(known.startswith(f"{name} ") for known in cli.COMMANDS) and command.endswith("...")
        return "" if is_group else f"there is no command {name!r}"
    try:
        importlib.import_module(f"xtuner.tools.{cli.COMMANDS[name].module}").parse_args(rest)
    except SystemExit as stop:
        error = capsys.readouterr().err
        partial = command.endswith("...") and _NEEDS.search(error)
        return "" if stop.code == 0 or partial else error.strip().splitlines()[-1]
    return ""


def test_what_is_taken_for_a_command():
    text = """
A `xtuner list-cfg -p dpo` and `xtuner/cli.py`.

    $ XTUNER_LANG=zh xtuner chat M --bits 4    four bits
    xtuner eval M --tasks a ... [--limit 3]    a, and more

```console
$ xtuner train c.py --cfg-options \\
    lr=1
xtuner - INFO - no command
```
"""
    assert [words_of(command) for command in commands(text)] == [
        ["list-cfg", "-p", "dpo"],
        ["chat", "1", "--bits", "4"],
        ["eval", "1", "--tasks", "a", "--limit", "3"],
        ["train", "c.py", "--cfg-options", "lr=1"],
        ["-", "INFO", "-", "no", "command"],
    ]


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("train c.py --sede 1", "unrecognized arguments: --sede 1"),
        ("trian c.py", "there is no command 'trian'"),
        ("convert merge A", "the following arguments are required: adapter_name_or_path, save_dir"),
        ("convert merge ...", ""),
        ("chat M --bits 3", "argument --bits: '3' is none of 4, 8, None"),
    ],
)
def test_a_wrong_command_is_found(command, error, capsys):
    assert error in mistake(command, capsys) if error else mistake(command, capsys) == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_program_takes_every_command_of_the_page(page: Path, capsys):
    found = {command: mistake(command, capsys) for command in commands(page.read_text(encoding="utf-8"))}
    assert {command: error for command, error in found.items() if error} == {}


def test_every_option_in_a_sentence_or_a_table_is_one_of_a_command():
    """`--adapter poet=DIR` in backquotes; pages of benchmarks have options of their own."""
    known = {
        option
        for name in cli.COMMANDS
        for action in reference.parser_of(name)._actions
        for option in action.option_strings
    }
    known |= {"--debug", "--lang"}
    pages = [page for page in PAGES if "benchmarks" not in page.parts]
    unknown = {
        (page.relative_to(ROOT).as_posix(), option)
        for page in pages
        for code in re.findall(r"(?<!`)`(--[^`\n]+)`(?!`)", page.read_text(encoding="utf-8"))
        for option in re.findall(r"(?:^| )(--[\w-]+)", code)
        if option not in known
    }
    assert unknown == OF_OTHERS


def test_pages_have_commands():
    """So that the rule above is about something."""
    assert sum(len(commands(page.read_text(encoding="utf-8"))) for page in PAGES) > 250


# They need no file, unless a word in capitals stands for one.
_CHEAP = ("list-cfg", "list-dataset-format", "copy-cfg", "env")
CHEAP = sorted(
    {
        " ".join(words)
        for page in PAGES
        for command in commands(page.read_text(encoding="utf-8"))
        if (words := words_of(command)) and words[0] in _CHEAP and words != ["copy-cfg"]
        if not any(word.isupper() for word in words)
    }
)


@pytest.mark.parametrize("command", CHEAP)
def test_a_command_that_needs_nothing_runs(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(shlex.split(command)) == 0
    assert capsys.readouterr().out
