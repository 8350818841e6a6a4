"""English or Chinese: who decides, and that nothing is left in English."""

import contextlib
import os
import re

import pytest

from xtuner import language
from xtuner.chinese import CHINESE
from xtuner.cli import COMMANDS, main
from xtuner.language import cells, told, wrap

NAMES = ("XTUNER_LANG", "LC_ALL", "LC_MESSAGES", "LANG")
HELPS = [["--help"], ["convert", "--help"], *([*name.split(), "--help"] for name in COMMANDS)]


@pytest.fixture
def chinese(monkeypatch):
    """Chinese, and the texts that were asked for and are not known in it."""
    monkeypatch.setenv("XTUNER_LANG", "zh")
    unknown = set()

    class Watched(dict):
        def get(self, text, default=None):
            if text not in self:
                unknown.add(text)
            return super().get(text, default)

    monkeypatch.setattr("xtuner.chinese.CHINESE", Watched(CHINESE))
    return unknown


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


def test_another_language_is_a_mistake(capsys):
    assert main(["list-cfg", "--lang", "fr"]) == 2
    assert capsys.readouterr().err == "xtuner: error: --lang is 'fr'; use one of en, zh\n"


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_all_help_is_chinese(words, capsys, monkeypatch, chinese):
    """No sentence is left in English, no line is wider than 80 columns, every flag is still named."""
    monkeypatch.setenv("COLUMNS", "80")
    text = helped(words, capsys)
    assert chinese == set()
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
    """A translation never loses a value."""
    slots = re.compile(r"\{[^{}]*\}")
    wrong = {e: c for e, c in CHINESE.items() if sorted(slots.findall(e)) != sorted(slots.findall(c))}
    assert wrong == {}


def test_values_with_braces_are_kept():
    """Values are put in after the translation, as they are."""
    assert told("{path} is {value!r}", path="a", value="{b}") == "a is '{b}'"


def test_chinese_is_broken_between_characters():
    """A character takes two columns; punctuation stays at its word; words stay whole."""
    assert wrap("把检查点写成 peft 可读的（目录），好。", 12) == [
        "把检查点写成",
        "peft 可读的",
        "（目录），",
        "好。",
    ]
    assert wrap("fine-tune a model", 6) == ["fine-", "tune a", "model"]
