"""The text of a release is the section of the changelog for its tag."""

import runpy
from pathlib import Path

import pytest

from xtuner import __version__

NOTES = runpy.run_path(str(Path(__file__).parents[2] / ".github" / "release_notes.py"))
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
