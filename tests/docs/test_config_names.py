"""A name that a config on a page uses without an import is one whose import line the error says."""

import re

import pytest

from tests.docs.site import ROOT
from xtuner.config.import_lines import import_line

PAGES = sorted([ROOT / "README.md", ROOT / "README_zh-CN.md", *(ROOT / "docs").rglob("*.md")])
_TYPE = re.compile(r"(?<![\w.])type=([A-Za-z_]\w*)")
# Of the pages on extending: what the reader writes.
OWN = {"FocalFinetune", "MyHook"}


def types(text: str) -> set[str]:
    """The classes and functions that a page names as a `type` and neither imports nor defines."""
    told = set(re.findall(r"^ *(?:class|def) (\w+)", text, re.M))
    for names in re.findall(r"^ *from \S+ import (\([^)]*\)|.+)$", text, re.M):
        told |= set(re.findall(r"\w+", names))
    return set(_TYPE.findall(text)) - told


def test_what_is_taken_for_a_type():
    assert types("a=dict(type=Lion)\nfrom b import C\nd=dict(type=C.make, e=dict(type=F))") == {"Lion", "F"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_type_on_a_page_can_be_imported(page):
    found = types(page.read_text(encoding="utf-8")) - OWN
    assert [name for name in sorted(found) if import_line(name) is None] == []
