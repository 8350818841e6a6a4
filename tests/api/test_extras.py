"""What a message tells to install is what is needed, for the Python that runs."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from xtuner.extras import EXTRAS, install_extra, pip_install

ROOT = Path(__file__).parents[2]


def test_the_command_is_for_this_python():
    """Copied into any shell, whatever is on its PATH."""
    assert shlex.split(install_extra("serve")) == [sys.executable, "-m", "pip", "install", *EXTRAS["serve"]]
    assert shlex.split(pip_install("a>=1", "b")) == [sys.executable, "-m", "pip", "install", "a>=1", "b"]


def test_the_extras_are_those_of_the_project():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    given = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]

    def packages(extra):
        for name in given[extra]:
            inner = re.fullmatch(r"xtuner\[(.+)\]", name)
            yield from (p for e in inner[1].split(",") for p in packages(e)) if inner else [name]

    assert {extra: tuple(packages(extra)) for extra in given.keys() - {"test", "dev", "docs"}} == EXTRAS


def test_nothing_tells_to_install_the_other_package_of_this_name():
    """In PyPI's xtuner none of our extras is; and a bare `pip` may be another Python's."""
    files = [p for n in ("xtuner", "docs", "examples", "benchmarks") for p in (ROOT / n).rglob("*.*")]
    texts = [p for p in [*files, *ROOT.glob("*.md")] if p.suffix in (".py", ".md", ".json", ".txt")]
    wrong = [
        str(p.relative_to(ROOT)) for p in texts if re.search(r"install '?\"?xtuner", p.read_text("utf-8"))
    ]
    bare = [
        str(p.relative_to(ROOT))
        for p in texts
        if p.suffix == ".py" and p.is_relative_to(ROOT / "xtuner") and "pip install" in p.read_text("utf-8")
    ]
    assert (wrong, bare) == ([], ["xtuner/extras.py"])


def test_every_extra_is_in_the_page_of_installing():
    """Those that tests and pages need are in CONTRIBUTING.md."""
    rows = (ROOT / "docs" / "install.md").read_text("utf-8").split("## Extras")[1].split("\n## ")[0]
    named = {
        name for row in re.findall(r"^\| (`[^|]+) \|", rows, re.M) for name in re.findall(r"`(\w+)`", row)
    }
    assert named == EXTRAS.keys()
