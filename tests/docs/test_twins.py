"""A Chinese page has the commands, outputs, files and links of its English one."""

import re

import pytest

from tests.docs.site import ROOT

TWINS = [("README.md", "README_zh-CN.md")] + [
    (path.relative_to(ROOT).as_posix().replace(".zh.md", ".md"), path.relative_to(ROOT).as_posix())
    for path in sorted((ROOT / "docs").rglob("*.zh.md"))
]
_FENCE = re.compile(r"^```\w*\n.*?^```$", re.M | re.S)


def blocks(text):
    """Fenced blocks as they are, and the commands of indented ones without what is said of them."""
    fences = _FENCE.findall(text)
    indented = re.findall(r"^ {4}(\S.*)$", _FENCE.sub("", text), re.M)
    return fences, [re.split(r" {2,}| # ", line)[0] for line in indented]


def codes(text):
    """What stands in backquotes in sentences and tables; a page may say more of its own language."""
    found = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", _FENCE.sub("", text))
    return {re.sub(r"--name \S+ ", "--name NAME ", code) for code in found if code != "--lang zh"}


def links(text):
    """Where its links lead; one to a Chinese twin counts as one to the page, that of languages as none."""
    text = re.sub(r"^.*简体中文.*$", "", _FENCE.sub("", text), flags=re.M)
    return sorted({link.replace(".zh.md", ".md") for link in re.findall(r"\]\(([^)\s]+)\)", text)})


def numbers(text):
    """The numbers of its tables, row by row."""
    rows = [line for line in _FENCE.sub("", text).splitlines() if line.startswith("|")]
    return [re.findall(r"\d+(?:[.,]\d+)*", re.sub(r"\]\([^)]*\)", "]", row)) for row in rows]


def test_explanations_may_differ_and_commands_may_not():
    english = "    xtuner a      one\n\n```console\n$ xtuner b\n```\n"
    assert blocks(english) == blocks(english.replace("one", "一"))
    assert blocks(english) != blocks(english.replace("xtuner b", "xtuner c"))


@pytest.mark.parametrize(("english", "chinese"), TWINS)
def test_the_twin_shows_the_same(english, chinese):
    pages = [(ROOT / page).read_text(encoding="utf-8") for page in (english, chinese)]
    fences, commands = zip(*map(blocks, pages), strict=True)
    if english == "README.md":  # its data is in the language of the page
        fences = [[block for block in found if "```json" not in block] for found in fences]
    assert fences[1] == fences[0]
    assert commands[1] == commands[0]
    assert links(pages[1]) == links(pages[0])
    assert numbers(pages[1]) == numbers(pages[0])
    assert codes(pages[1]) == codes(pages[0])
