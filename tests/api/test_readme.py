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
    """Of all pages: files exist, and so do the headings after `#`. Those of docs/reference are generated."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")]
    lost = []
    for page in pages:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            path, _, heading = target.partition("#")
            file = page.parent / path if path else page
            if (ROOT / "docs" / "reference").resolve() in file.resolve().parents:
                assert path.rpartition("/")[2] in ("commands.md", "config.md", "builtin.md", "python.md"), (
                    target
                )
            elif "://" not in target and (not file.exists() or (heading and heading not in headings(file))):
                lost.append((page.name, target))
    assert lost == []


def headings(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("name", ["README.md", "README_zh-CN.md"])
def test_its_numbers_beside_other_programs_are_those_of_the_results(name):
    """Each factor and share of memory is in a row of that program."""
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8").splitlines()
    rows = [
        line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if "%" in line and "|" in line
    ]
    assert len(rows) == 3
    for row in rows:
        program, *cells = (
            cell.strip().replace("，", ", ").replace("打包", "packed") for cell in row.strip("|").split("|")
        )
        of_program = " ".join(line for line in results if line.startswith(f"| {program}"))
        numbers = [number for cell in cells for number in re.findall(r"[\d.]+%?", cell)]
        assert len(numbers) >= 4
        assert [number for number in numbers if number not in re.findall(r"[\d.]+%?", of_program)] == []
