"""The README tells the truth about the tree."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["README.md", "README_zh-CN.md"])
def test_every_file_it_names_exists_and_every_package_is_named(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    table = text.split("\n| `xtuner/cli.py`")[1].split("\n\n")[0]
    named = set(re.findall(r"`((?:xtuner|examples|tests)/[\w./-]*)`", "| `xtuner/cli.py`" + table))
    assert {n for n in named if not (ROOT / n).exists()} == set()
    packages = {f"xtuner/{p.name}/" for p in (ROOT / "xtuner").iterdir() if (p / "__init__.py").exists()}
    assert packages - named == set()


def test_links_lead_somewhere():
    for name in ("README.md", "README_zh-CN.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        targets = [t for t in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in t]
        assert [t for t in targets if not (ROOT / t).exists()] == []
