"""The wheel is the whole package, nothing else, and runs without the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from xtuner import __version__

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel of the checkout, built from a copy: setuptools writes beside the sources."""
    copy = tmp_path_factory.mktemp("checkout")
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "xtuner", copy / "xtuner", ignore=without)
    # A package that is no part of XTuner.
    shutil.copytree(ROOT / "tests" / "api", copy / "tests" / "api", ignore=without)
    (copy / "tests" / "__init__.py").touch()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    code = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, capture_output=True)
    return next((copy / "dist").iterdir())


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with the content of the wheel, as it lies in site-packages."""
    folder = tmp_path_factory.mktemp("site-packages")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def files_below(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_it_has_every_file_of_the_package_and_no_other(wheel):
    """Also data: templates, word lists, questions; a new kind of file belongs into `package-data`."""
    about = f"xtuner-{__version__}.dist-info/"
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith(about)}
    assert names == {f"xtuner/{name}" for name in files_below(ROOT / "xtuner")}


def test_its_metadata_are_complete(installed):
    """What PyPI shows, and the command that pip makes."""
    about = installed / f"xtuner-{__version__}.dist-info"
    assert (about / "entry_points.txt").read_text("utf-8").split("\n")[1] == "xtuner = xtuner.cli:entry"
    assert (about / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    lines = (about / "METADATA").read_text("utf-8").splitlines()
    keys = {line.partition(":")[0] for line in lines[: lines.index("")]}
    wanted = {"Summary", "Author", "License-Expression", "Classifier", "Keywords"}
    assert wanted | {"Requires-Python", "Description-Content-Type", "Provides-Extra"} <= keys


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["version"], __version__),
        (["list-cfg", "-p", "internlm2_1_8b_qlora_alpaca_e3"], "internlm2_1_8b_qlora_alpaca_e3"),
        (["copy-cfg", "internlm2_1_8b_qlora_alpaca_e3", "."], "internlm2_1_8b_qlora_alpaca_e3_copy.py"),
        (["list-dataset-format"], "alpaca"),
        (["env"], "packages"),
        (["demo", "--help"], "--preference"),
        (["new-cfg", "--help"], "--model"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_it_runs_without_the_checkout(installed, tmp_path, words, expected):
    """In another folder, with nothing of the tree on the path."""
    found = subprocess.run(
        [sys.executable, "-m", "xtuner", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed), "XTUNER_LANG": "en"},
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert expected in found.stdout
