"""The commands in the examples' READMEs run, and print what stands below them."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/README.md"))


def commands(name):
    """The commands of a README, each with the lines that it prints on stdout."""
    block = (
        (EXAMPLES / name / "README.md").read_text(encoding="utf-8").split("```console\n")[1].split("```")[0]
    )
    found = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif not line.startswith(("...", "  xtuner")):  # of the log
            found[-1][1].append(line)
    return found


def shape(line):
    """A line without what differs by machine and time: numbers, a model's words, how wide a table is."""
    line = re.sub(r"^(continues|answers|streams): .*", r"\1", line)
    return re.sub(r"[\s━─]+", " ", re.sub(r"\d[\d.,e+-]*", "#", line)).strip()


def test_every_task_has_a_readme_with_commands():
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir() and not path.name.startswith("_")}
    assert folders - {"notebooks"} == set(NAMES)
    assert all(commands(name) for name in NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_commands_print_what_the_readme_shows(name, tmp_path):
    """In a copy of the folder, one after the other; numbers may differ."""
    if name == "serving":
        pytest.importorskip("openai", reason="xtuner[api] is not installed")
        pytest.importorskip("fastapi", reason="xtuner[serve] is not installed")
    work = shutil.copytree(EXAMPLES / name, tmp_path / name)
    for maker in EXAMPLES.glob("make_*.py"):
        shutil.copy(maker, tmp_path)
    path = os.pathsep.join(filter(None, [str(EXAMPLES.parent), os.environ.get("PYTHONPATH")]))
    for command, shown in commands(name):
        program, *words = shlex.split(command)
        program = [sys.executable, "-m", "xtuner"] if program == "xtuner" else [sys.executable]
        env = {**os.environ, "PYTHONPATH": path, "COLUMNS": "100"}
        run = subprocess.run(
            [*program, *words], cwd=work, env=env, capture_output=True, text=True, check=False, timeout=170
        )
        assert run.returncode == 0, run.stderr[-2000:]
        assert [shape(line) for line in shown] == [shape(line) for line in run.stdout.rstrip().splitlines()]
