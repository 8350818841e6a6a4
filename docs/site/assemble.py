"""The pages of the site: those of docs/, those of other folders under another name, and the generated ones.

    README.md                       -> index.md
    README_zh-CN.md                 -> index.zh.md
    docs/preferences/dpo.md         -> preferences/dpo.md
    xtuner/config/schema.py, ...    -> reference/config.md, reference/config.zh.md

A link to a file of the tree becomes a link to its page. `x.zh.md` is the Chinese of `x.md`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from reference import generated_pages

ROOT = Path(__file__).parents[2]
# Files outside docs/ that are pages.
ELSEWHERE = {
    "README.md": "index.md",
    "README_zh-CN.md": "index.zh.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "measurements/index.md",
    "benchmarks/RESULTS.md": "measurements/results.md",
    "examples/train_in_one_file.py": "train_in_one_file.md",
}
_LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")
# A line break between two characters of Chinese, one of which may be code or the start of a link.
_CHINESE = r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]"
_BREAK = re.compile(rf"(?<={_CHINESE})\n *(?={_CHINESE})|(?<={_CHINESE[:-1]}`])\n *(?=[\u4e00-\u9fff])")
# The line of a README that links to its other language, which the site's own menu does.
_OTHER_LANGUAGE = re.compile(r"^.*\[(?:English|简体中文)\]\(README.*\n\n?", re.M)


def assemble(out: Path) -> None:
    """Write all pages and pictures into `out`, and remove what is no longer one."""
    files = {uri: text.encode() for uri, text in {**pages(), **generated_pages()}.items()}
    files |= {_in_docs(path): path.read_bytes() for path in pictures()}
    files |= {_in_site(path): path.read_bytes() for path in (ROOT / "docs" / "site").glob("*.css")}
    for old in [path for path in out.rglob("*") if path.is_file()]:
        if old.relative_to(out).as_posix() not in files:
            old.unlink()
    for uri, content in files.items():
        path = out / uri
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)


def pictures() -> list[Path]:
    """The files of all pictures."""
    return [path for path in sorted((ROOT / "docs").rglob("*")) if path.suffix in (".svg", ".png")]


def pages() -> dict[str, str]:
    """The text of each page that is written by hand, by its address."""
    placed = {path: uri for path, uri in ELSEWHERE.items() if (ROOT / path).exists()}
    for path in sorted((ROOT / "docs").rglob("*.md")):
        placed[path.relative_to(ROOT).as_posix()] = _in_docs(path)
    shown = {path.relative_to(ROOT).as_posix(): _in_docs(path) for path in pictures()}
    found = {}
    for path, uri in placed.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        text = _of_python(text) if path.endswith(".py") else relinked(text, path, uri, placed | shown)
        found[uri] = without_breaks(text) if ".zh." in uri else text
    return found


def relinked(text: str, path: str, uri: str, placed: dict[str, str]) -> str:
    """The text of the file `path` with links from the page `uri` to the pages of the linked files.

    Raises:
        ValueError: a link leads to a file that is no page and no picture.
    """

    def link(match: re.Match[str]) -> str:
        target, heading = match[1], match[2] or ""
        if ":" in target:
            return match[0]
        file = os.path.normpath(PurePosixPath(path).parent / target)
        if file not in placed:
            if file.startswith("docs/reference/"):  # generated: a link within docs/ is one within the site
                return match[0]
            raise ValueError(
                f"{path} links to {target}, which is no page: add it to ELSEWHERE, or name it only"
            )
        page = placed[file] if ".zh." not in placed[file] else placed[file].replace(".zh.", ".")
        return f"]({os.path.relpath(page, PurePosixPath(uri).parent)}{heading})"

    return _LINK.sub(link, _OTHER_LANGUAGE.sub("", text))


def without_breaks(text: str) -> str:
    """The Chinese text with the lines of a paragraph joined: a browser shows a line break as a space."""
    parts = re.split(r"(^```.*?^```$|^(?: {4}|\|)[^\n]*$)", text, flags=re.S | re.M)
    return "".join(part if at % 2 else _BREAK.sub("", part) for at, part in enumerate(parts))


def _of_python(text: str) -> str:
    """A page of a Python file: its docstring and its code."""
    about, code = re.fullmatch(r'"""(.*?)"""\n(.*)', text, re.S).groups()
    first, _, rest = about.partition("\n")
    return f"# {first.rstrip('.')}\n{rest}\n```python\n{code.strip()}\n```\n"


def _in_docs(path: Path) -> str:
    return path.relative_to(ROOT / "docs").as_posix()


def _in_site(path: Path) -> str:
    return f"assets/{path.name}"
