"""What pages, workflows and the Makefile's comments name is there: files of the tree, targets of make."""

import re

import pytest

from tests.docs.site import ROOT
from tests.docs.test_commands import PAGES

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.M)[0].split())
# Written by a command that the page names.
WRITTEN = {"benchmarks/.peers", "benchmarks/.work", "benchmarks/RESULTS-gpu.md"}
OTHERS = [ROOT / ".ci" / "run", *sorted((ROOT / ".github" / "workflows").glob("*.yml"))]
# Variables may precede make; its words end where an explanation or another command begins.
_MAKE = re.compile(r"(?:[A-Z_]+=\S+ +)*make +(.+?)(?: {2,}| *[#;|&]|$)")
_PATH = re.compile(r"(?<![\w./-])((?:tests|benchmarks|examples|xtuner|docs)/[\w./-]*\w)")
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


def targets(text: str, is_page: bool = True) -> set[str]:
    """The targets of commands of make: of a page those in backquotes and blocks, else at starts of lines."""
    lines, in_fence = _CODE.findall(text) if is_page else [], False
    for line in text.splitlines():
        in_fence ^= line.lstrip().startswith("```")
        if in_fence or not is_page or line.startswith("    "):
            lines.append(re.sub(r"^ *(?:- )?(?:run: |\$ |# +)?", "", line))
    words = {word for line in lines if (found := _MAKE.match(line)) for word in found[1].split()}
    return {word for word in words if re.fullmatch(r"[a-z][a-z-]*", word)}


def paths(text: str) -> set[str]:
    """The paths of the tree that stand in backquotes."""
    return {path for code in _CODE.findall(text) for path in _PATH.findall(code)}


def test_what_is_taken_for_a_target_and_a_path():
    text = "`make prove PACKAGE=a` and\n    X=1 make gpu PART=b    # c\n\nThey\nmake demands."
    assert targets(text) == {"prove", "gpu"}
    assert targets("# make demo  a demo\n  - run: make check lint # d\n", is_page=False) == {
        "demo",
        "check",
        "lint",
    }
    assert paths("`python benchmarks/x.py`, `tests/a`, `/tests/b`, docs/c, `my/docs/d.md`") == {
        "benchmarks/x.py",
        "tests/a",
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_file_of_the_tree_in_a_page_is_there(page):
    named = paths(page.read_text(encoding="utf-8")) - WRITTEN
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("file", [*PAGES, *OTHERS], ids=lambda file: file.relative_to(ROOT).as_posix())
def test_every_target_of_make_is_there(file):
    text = file.read_text(encoding="utf-8")
    assert targets(text, is_page=file.suffix == ".md") - TARGETS == set()


def test_the_targets_of_the_nightly_matrix_are_there():
    text = (ROOT / ".github" / "workflows" / "nightly.yml").read_text(encoding="utf-8")
    named = re.findall(r"target: ([\w-]+)", text)
    assert len(named) > 5
    assert set(named) <= TARGETS


def test_every_target_has_its_comment():
    """At the head of the Makefile; `clean` says what it is, and `constraints` has it above its lines."""
    head = MAKEFILE.partition("\n\n")[0]
    assert TARGETS - set(re.findall("^# make ([a-z-]+)", head, re.M)) == {"clean", "constraints"}
    assert all(re.search(rf"^{re.escape(target)}:", MAKEFILE, re.M) for target in TARGETS)
