"""The text of a release: the section of CHANGELOG.md for its tag, which must name the version of the package.

python .github/release_notes.py v0.4.0

In a workflow, links to files lead to those of the tag: the page of a release has no folder.

    [memory](docs/memory.md)   ->   [memory](https://github.com/OWNER/NAME/blob/v0.4.0/docs/memory.md)
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def read_version() -> str:
    """The version that the package names."""
    text = (ROOT / "xtuner" / "__init__.py").read_text("utf-8")
    return re.findall(r'^__version__ = "(.+)"$', text, re.M)[0]


def section(changelog: str, version: str) -> str:
    """What stands below `## version`, up to the next version; "" if there is no such section."""
    found = re.search(rf"^## {re.escape(version)}(?: [^\n]*)?\n(.*?)(?=^## |\Z)", changelog, re.M | re.S)
    return found[1].strip() if found else ""


def with_addresses(text: str, files: str) -> str:
    """The text, with links to files of this folder led to the address `files`."""
    return re.sub(r"\]\((?!https?://)([^)]+)\)", rf"]({files}/\1)", text)


def main(tag: str) -> str:
    """The text; SystemExit if the tag, the version or the changelog do not fit."""
    version = read_version()
    if tag != f"v{version}":
        raise SystemExit(f"the tag is {tag}, and xtuner/__init__.py says {version}: tag v{version}")
    text = section((ROOT / "CHANGELOG.md").read_text("utf-8"), version)
    if not text:
        raise SystemExit(f"CHANGELOG.md has no section '## {version}': make one of '## Unreleased'")
    server, repository = os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_REPOSITORY")
    return with_addresses(text, f"{server}/{repository}/blob/{tag}") if server and repository else text


if __name__ == "__main__":
    sys.stdout.write(main(sys.argv[1]) + "\n")
