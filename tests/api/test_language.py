"""English or Chinese: who decides, and that nothing is left in English."""

import ast
import contextlib
import itertools
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from xtuner import chinese, errors, language, log, model_folder
from xtuner.chat.commands import COMMANDS as TYPED
from xtuner.chat.line_input import PROMPT
from xtuner.chinese import CHINESE
from xtuner.cli import COMMANDS, main
from xtuner.config.mmengine_names import GONE
from xtuner.config.ref import HOW_TO_NAME
from xtuner.config.schema import CLASHES, VALUES
from xtuner.config.streaming import _UNKNOWN as UNKNOWN_LENGTH
from xtuner.config.unsupported import NAMES as LATER
from xtuner.dataset.encoding.chat_template import EARLIER_THINKING, THINKING
from xtuner.dataset.encoding.message_forms import FORMS
from xtuner.dataset.encoding.pipeline import EMPTY, FAULTY, NOTHING_TRAINED, PROMPT_FILLS
from xtuner.dataset.map_fns.auto import FORMATS
from xtuner.dataset.preferences.samples import EQUAL, TIED
from xtuner.dataset.reading.files import AT_LINE
from xtuner.dataset.reading.load import _NOT_HERE as NOT_HERE
from xtuner.dataset.reading.tables import ParquetFile
from xtuner.errors import XTunerError
from xtuner.estimate import forecast
from xtuner.families import FAMILIES
from xtuner.language import cells, translate, wrap
from xtuner.model.fused import layers, linear
from xtuner.model.targets import CHOOSES, MORE, READ, SENSES
from xtuner.tools.check import _UNITS

NAMES = ("XTUNER_LANG", "LC_ALL", "LC_MESSAGES", "LANG")
HELPS = [["--help"], ["convert", "--help"], *([*name.split(), "--help"] for name in COMMANDS)]


def helped(words, capsys):
    with contextlib.suppress(SystemExit):
        main(words)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("variables", "lang"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "ZH_TW"}, "zh"),
        ({"LC_ALL": "C", "LANG": "zh"}, "en"),
        ({"LC_ALL": "", "LC_MESSAGES": "zh_CN", "LANG": "en_US.UTF-8"}, "zh"),
        ({"XTUNER_LANG": "en", "LC_ALL": "zh_CN.UTF-8"}, "en"),
        ({"LANG": "POSIX"}, "en"),
        ({}, "en"),
    ],
)
def test_the_language_is_the_terminals(monkeypatch, variables, lang):
    """XTUNER_LANG, LC_ALL, LC_MESSAGES and LANG decide, in this order; an empty one is none."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert language.language() == lang


@pytest.mark.parametrize("words", ["--lang zh check --help", "check --help --lang zh", "check --lang=zh -h"])
def test_the_option_stands_anywhere_and_for_one_command(words, capsys):
    """`--lang zh` is taken from any command line; the next command speaks as before."""
    assert helped(words.split(), capsys).startswith("用法: xtuner check")
    assert helped(["check", "--help"], capsys).startswith("usage: xtuner check")
    assert os.environ["XTUNER_LANG"] == "en"


@pytest.mark.parametrize(("words", "lang"), [(["--lang", "fr"], "fr"), (["--lang"], ""), (["--lang="], "")])
def test_another_language_is_a_mistake(words, lang, capsys):
    assert main(["list-cfg", *words]) == 2
    assert capsys.readouterr().err == f"xtuner: error: --lang is {lang!r}; use one of en, zh\n"


def test_a_terminal_without_chinese_letters_is_shown_english(tmp_path):
    """What it cannot show is asked for in vain; a letter of a user's own text becomes a question mark."""
    (tmp_path / "中.py").touch()
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "XTUNER_LANG": "zh", "PYTHONUTF8": "0"}

    def output(*words):
        command = [sys.executable, "-m", "xtuner", *words]
        return subprocess.run(command, env=environment, capture_output=True, cwd=tmp_path, check=False).stdout

    assert output("--help").startswith(b"usage: xtuner COMMAND")
    assert output("check", "中.py").startswith(b"?.py: 4 errors")


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_all_help_is_chinese(words, capsys, monkeypatch, untold):
    """No sentence is left in English, no line is wider than 80 columns, every flag is still named."""
    monkeypatch.setenv("COLUMNS", "80")
    text = helped(words, capsys)
    assert untold == set()
    assert [line for line in text.splitlines() if cells(line) > 80] == []
    monkeypatch.setenv("XTUNER_LANG", "en")
    flags = re.compile(r"(?<!\S)\[?(--?[a-zA-Z][\w-]*)")
    assert set(flags.findall(text)) >= set(flags.findall(helped(words, capsys))) - {"--lang"}


def test_a_mistake_on_the_command_line_is_told_in_chinese(capsys, monkeypatch):
    monkeypatch.setenv("XTUNER_LANG", "zh")
    with pytest.raises(SystemExit):
        main(["train"])
    assert capsys.readouterr().err.endswith("xtuner train: error: 缺少参数：config\n")


def test_both_languages_have_the_same_slots():
    """A translation never loses a value; those of `%` are in one order."""

    def slots(text):
        return set(re.findall(r"\{[^{}]*\}", text)), re.findall(r"%[.\d]*[drsg]\b", text, re.ASCII)

    assert {e: c for e, c in CHINESE.items() if slots(e) != slots(c)} == {}


def test_values_with_braces_are_kept():
    """Values are put in after the translation, as they are."""
    assert translate("{path} is {value!r}", path="a", value="{b}") == "a is '{b}'"


@pytest.mark.parametrize(
    ("text", "values", "said"),
    [
        ("{count} rows", {"count": 1}, "1 row"),
        ("{count:,} rows are left out", {"count": 1}, "1 row is left out"),
        ("{count:,} rows are left out", {"count": 1001}, "1,001 rows are left out"),
        ("{a} of {b} samples have tokens", {"a": 1, "b": 1}, "1 of 1 sample has tokens"),
        ("{a} of {b} samples have tokens", {"a": 1, "b": 2}, "1 of 2 samples have tokens"),
        ("{count} linear layers in {n} batches", {"count": 1, "n": 1}, "1 linear layer in 1 batch"),
        ("{count} files that are not there", {"count": "1"}, "1 file that is not there"),
        ("{count} rows, {flag} rows, {share} rows", {"count": 0, "flag": True, "share": 1.0}, None),
        ("line {line} names {names} columns", {"line": 1, "names": 1}, "line 1 names 1 column"),
        ("{name} reads no images of 1 rows", {"name": "1"}, None),
    ],
)
def test_one_is_singular(text, values, said):
    """What a message counts agrees with a whole number of one; values are kept as they are."""
    said = text.format(**values) if said is None else said
    assert translate(text, **values) == said
    as_log = re.sub(r"\{\w+(:,)?\}", "%s", text)
    record = log.logger.makeRecord("xtuner", 20, "", 0, as_log, tuple(values.values()), None)
    assert log.logger.filter(record)
    assert record.getMessage().replace("1001", "1,001") == said


def test_chinese_is_broken_between_characters():
    """A character takes two columns; punctuation stays at its word; words stay whole."""
    assert wrap("把检查点写成 peft 可读的（目录），好。", 12) == [
        "把检查点写成",
        "peft 可读的",
        "（目录），",
        "好。",
    ]
    assert wrap("fine-tune a model", 6) == ["fine-", "tune a", "model"]


def literals():
    """Every text that stands as such in a call of `translate`."""
    for path in (Path(language.__file__).parent).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_told = isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("translate", "say_once")
            if is_told and isinstance(node.args[0], ast.Constant):
                yield node.args[0].value
            elif is_told and isinstance(node.args[0], ast.IfExp):
                yield from (node.args[0].body.value, node.args[0].orelse.value)


def tables():
    """The texts of tables, and of names that are put together."""
    yield from (text for feature in LATER.values() for text in feature)
    yield from (value.must_be for value in VALUES if not value.must_be.startswith("one of "))
    yield from (clash.message for clash in CLASHES)
    yield from (row.no_text for row in FAMILIES.values() if row.no_text)
    yield from filter(None, forecast._RECOMPUTED.values())
    yield from model_folder._OTHER_KINDS.values()
    yield HOW_TO_NAME
    yield from GONE.values()
    yield ", but checkpoints of a run: make one of them with xtuner convert pth_to_hf"
    yield from (EQUAL, TIED)
    yield from (EMPTY, PROMPT_FILLS, NOTHING_TRAINED, FAULTY, "iterations", "epochs")
    yield from (text for _, text in _UNITS)
    yield from filter(None, (form.says for form in FORMS))
    yield from (text for one in FORMATS for text in (one.reason, one.announcement, one.also) if text)
    yield from (layers._COST, linear._COST)
    yield from (THINKING, EARLIER_THINKING, CHOOSES, SENSES, READ, MORE)
    yield PROMPT
    yield from ("the model", "the base model", "the adapter", "the source", "adapter", "LLM", "LLM tokenizer")
    yield from (command.help for command in TYPED.values())
    yield from ("1 or more", "0 or more", "above 0", "above 0 and at most 1", "0 (all) or more")
    yield from ("0 (always the likeliest) or more", "0 (any that is free) to 65535")
    yield from (AT_LINE, ParquetFile.place_text, NOT_HERE, UNKNOWN_LENGTH)


ERRORS = {
    name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, XTunerError)
}
# What clients of the server read: xtuner/chat/server/__init__.py says why it is English.
OF_CLIENTS = {f"chat/server/{name}.py" for name in ("forms", "images", "prompts", "requests")}
# What scripts look for, and commands.
MARKS = {
    "Exp name: %s",
    "Iter(val) [%s/%d]  %s",
    "Iter(test) [%d/%d]  %s",
    "before_train in EvaluateChatHook.",
    "after_train_iter in EvaluateChatHook.",
    "after_train in EvaluateChatHook.",
    "DeepSpeed %s",
    ".type: ",  # of a setting
    "xtuner: error: ",
    "xtuner: warning: ",
    "xtuner: stopped",
    *("xtuner: error: --lang is ", "; use one of "),  # of a language that is not known
    "xtuner convert pth_to_hf ",  # a command
    *(" OUT", "PATTERN: "),
}


def _words(node):
    """The texts of an expression that are its own: no arguments of calls, no keys, no marks."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in MARKS:
        yield from re.findall("[A-Za-z]{2,}", node.value)
    elif not isinstance(node, (ast.Call, ast.Compare, ast.Subscript)):
        for part in ast.iter_child_nodes(node):
            yield from _words(part)


def _messages(node):
    """What a call puts into an error, the log or the terminal as it is."""
    name = getattr(node.func, "id", "") or getattr(node.func, "attr", "")
    of = getattr(getattr(node.func, "value", None), "id", "")
    if name in ERRORS or (of == "logger" and name in ("debug", "info", "warning", "error", "log")):
        return node.args
    if getattr(node.func, "id", "") == "print" or ast.unparse(node.func).endswith("screen.say"):
        return node.args
    # Texts as such are looked up; one that is put together is found nowhere.
    is_looked_up = name in ("say_once", "translate") and not isinstance(
        node.args[0], (ast.Constant, ast.IfExp)
    )
    return node.args[:1] if is_looked_up else []


def test_errors_and_log_lines_are_translated():
    """They, and what is printed, are texts of `translate` with values in slots, never composed in English."""
    root = Path(language.__file__).parent
    found = []
    for path in root.rglob("*.py"):
        name = path.relative_to(root)
        if name.as_posix() in OF_CLIENTS:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and any(word for text in _messages(node) for word in _words(text)):
                found.append(f"{name}:{node.lineno} {ast.unparse(node)[:100]}")
    assert found == []


# Of argparse itself, and texts that are put together of others.
FROM_ELSEWHERE = {"positional arguments", "options", "optional arguments", "show this help message and exit"}
FROM_ELSEWHERE |= {"of the papers (cs.AI cs.CL cs.CV)", "of the last update (2020-01-01)"}


def test_no_translation_is_left_of_a_text_that_is_gone():
    """Each English text of the tables is still in the program."""
    root = Path(language.__file__).parent
    files = [path for path in root.rglob("*.py") if path.parent.name != "chinese"]
    nodes = (node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    texts = (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    here = {" ".join(text.split()) for text in (*texts, *tables())} | FROM_ELSEWHERE
    assert {text for text in CHINESE if " ".join(text.split()) not in here} == set()


def test_every_translated_text_has_its_chinese():
    assert {text for text in (*literals(), *tables()) if text not in CHINESE} == set()


def test_a_text_has_one_translation():
    """Where two commands use a word in two senses, they write it differently: the later one would win."""
    parts = [value for name, value in vars(chinese).items() if name.isupper() and name != "CHINESE"]
    found = defaultdict(set)
    for text, translation in itertools.chain.from_iterable(part.items() for part in parts):
        found[text].add(translation)
    assert {text: both for text, both in found.items() if len(both) > 1} == {}
