"""The text of a release is the section of the changelog for its tag."""

import re
import runpy
from pathlib import Path

import pytest

from xtuner import __version__

ROOT = Path(__file__).parents[2]
NOTES = runpy.run_path(str(ROOT / ".github" / "release_notes.py"))
CHANGELOG = "# Changes\n\n## Unreleased\n\n* c\n\n## 1.10.0\n\n### Data\n\n* b\n\n## 1.1.0 (2026)\n\n* a\n"


@pytest.mark.parametrize(
    ("version", "text"),
    [("1.10.0", "### Data\n\n* b"), ("1.1.0", "* a"), ("1.1", ""), ("2.0.0", "")],
)
def test_a_section_ends_where_the_next_version_begins(version, text):
    assert NOTES["section"](CHANGELOG, version) == text


def test_a_tag_of_another_version_is_refused():
    assert NOTES["read_version"]() == __version__
    with pytest.raises(SystemExit, match=f"the tag is v0.0.1, .* says {__version__}: tag v{__version__}"):
        NOTES["main"]("v0.0.1")


def test_the_newest_release_is_this_version_below_what_is_not_released():
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert headings[:2] == ["Unreleased", __version__]


def test_a_release_fits_a_screen():
    sections = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.M)[1:]
    assert {text.split()[0]: text.count("\n") for text in sections if text.count("\n") > 70} == {}


def test_links_of_a_release_lead_to_the_files_of_its_tag(monkeypatch):
    """The page of a release has no folder that a relative link could begin in."""
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    monkeypatch.setenv("GITHUB_REPOSITORY", "OWNER/NAME")
    files = re.findall(r"\]\((.+?)\)", NOTES["main"](f"v{__version__}"))
    base = f"https://github.com/OWNER/NAME/blob/v{__version__}/"
    assert files
    assert [name for name in files if not (ROOT / name.removeprefix(base)).is_file()] == []
