"""The notebooks run from top to bottom, and what they keep is what they say."""

import json
import os
import shutil
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
SECONDS = 180  # of a cell, on a busy machine


def printed(notebook):
    """What its cells printed, all together."""
    outputs = [out for cell in notebook["cells"] for out in cell.get("outputs", [])]
    return "".join("".join(out["text"]) for out in outputs if out.get("name") == "stdout")


@pytest.mark.parametrize("name", NAMES)
def test_it_is_kept_with_its_outputs_and_without_errors(name):
    """Every cell of code was run, in order; no path of a machine is left in it."""
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert {out["output_type"] for cell in cells for out in cell["outputs"]} <= {
        "stream", "execute_result", "display_data"
    }  # fmt: skip
    # Of any machine: folders of users and of temporary files, and this checkout.
    assert not any(
        place in text for place in ("/home/", "/tmp/", "/root/", "/Users/", str(FOLDER.parents[1]))
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
    """In an empty folder, by a kernel of its own; it prints as many lines as those that are kept."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    root = str(FOLDER.parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])))
    shutil.copy(FOLDER / f"{name}.ipynb", tmp_path)
    notebook = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4)
    kept = printed(notebook)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=place).execute()
    assert printed(notebook).count("\n") == kept.count("\n")
