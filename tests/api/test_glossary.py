"""The words of docs/glossary.md are used, and none that it replaces."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
CODE = list((ROOT / "xtuner").rglob("*.py"))
# The style of pages has borders.
STYLES = {ROOT / "xtuner" / "html_page.py", ROOT / "xtuner" / "evaluation" / "compare" / "script.py"}
EXEMPT = {ROOT / "docs" / "glossary.md", *STYLES, Path(__file__)}


def replaced():
    """The words of the last column."""
    for line in GLOSSARY.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 3 and cells[2] not in ("", "not", "---"):
            yield from cells[2].split(", ")


WORDS = sorted(replaced())
PATTERN = re.compile(rf"(?<![a-z])({'|'.join(WORDS)})(?![a-z])", re.IGNORECASE)


def test_words_that_are_replaced_are_listed():
    assert {"border", "borders", "reckoned", "told"} <= set(WORDS)


@pytest.mark.parametrize("path", [p for p in PAGES if p not in EXEMPT], ids=lambda p: p.name)
def test_no_page_has_one(path):
    assert PATTERN.findall(path.read_text(encoding="utf-8")) == []


def test_no_name_docstring_comment_or_message_has_one():
    found = {}
    for path in CODE:
        if path not in EXEMPT:
            text = path.read_text(encoding="utf-8").replace("_", " ")
            if words := PATTERN.findall(text):
                found[str(path.relative_to(ROOT))] = words
    assert found == {}


def test_every_module_that_the_glossary_names_is_there():
    for name in re.findall(r"`((?:xtuner|tests)/[\w/]+\.py)`", GLOSSARY):
        assert ast.parse((ROOT / name).read_text(encoding="utf-8")), name
