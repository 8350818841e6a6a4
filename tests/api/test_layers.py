"""What may import what; and what must stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "xtuner"
LAYERS = {
    **dict.fromkeys(
        [
            "errors",
            "log",
            "language",
            "chinese",
            "singular",
            "locks",
            "extras",
            "paths",
            "checkpoint_paths",
            "credentials",
            "data_files",
            "dist",
            "devices",
            "hub",
            "image_processor",
            "internvl_folder",
            "llava_folder",
            "model_folder",
            "model_address",
            "cache",
            "loadable",
            "blocks",
            "next_tokens",
            "notebook",
            "atomic",
            "json_lines",
            "html_page",
            "svg_curves",
            "work_dir",
            "families",
            "utils",
        ],
        0,
    ),
    "config": 1,
    **dict.fromkeys(["parallel", "estimate", "rewards"], 2),
    **dict.fromkeys(["check", "dataset", "model"], 3),
    **dict.fromkeys(["generation", "scoring", "survey", "prepare"], 4),
    "chat": 5,
    "engine": 6,
    **dict.fromkeys(["convert", "evaluation"], 7),
    **dict.fromkeys(["api", "tools", "cli", "demo", "proposal", "report", "__main__"], 8),
    "recipes": -1,
}
# recipes name everything as text; they share only the errors, words and names of layer 0.
BELOW_RECIPES = {"errors", "language", "utils"}
TOP = {"api", "cli", "tools", "demo", "proposal", "report", "__main__"}


def imports(path):
    """Pairs of the package a file is in and every xtuner package that it imports, anywhere in it."""
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = (
                [f"{node.module}.{a.name}" for a in node.names] if node.module == "xtuner" else [node.module]
            )
        for name in names:
            parts = name.split(".")
            if parts[0] == "xtuner" and len(parts) > 1 and parts[1] not in ("__version__", own):
                yield own, parts[1]


def loaded_by(path):
    """The modules that importing the module at `path` loads: imports outside of functions and of typing."""
    pending = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "xtuner":
            yield from ({f"{node.module}.{a.name}" for a in node.names} | {node.module})
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif not isinstance(node, ast.FunctionDef):
            pending += [inner for inner in ast.iter_child_nodes(node) if isinstance(inner, ast.stmt)]


def test_no_module_imports_itself_through_others():
    """Leaves are taken off until none is left; what stays is a circle."""
    paths = {
        ".".join(("xtuner", *path.relative_to(ROOT).with_suffix("").parts)): path
        for path in ROOT.rglob("*.py")
        if path.name != "__init__.py"
    }
    graph = {name: set(loaded_by(path)) & set(paths) for name, path in paths.items()}
    while leaves := {name for name, others in graph.items() if not others}:
        graph = {name: others - leaves for name, others in graph.items() if name not in leaves}
    assert graph == {}


def test_a_package_imports_lower_layers_only():
    wrong = set()
    for path in ROOT.rglob("*.py"):
        if path == ROOT / "__init__.py":
            continue
        for own, other in imports(path):
            if own == "recipes":
                allowed = other in BELOW_RECIPES
            elif own in TOP:
                allowed = True
            else:
                # errors, log, dist and utils may use one another.
                allowed = LAYERS[other] < LAYERS[own] or LAYERS[own] == LAYERS[other] == 0
                allowed = allowed and other != "recipes"
            if not allowed:
                wrong.add(f"{path.relative_to(ROOT)} imports {other}")
    assert wrong == set()


STAGES = ["reading", "map_fns", "encoding", "items"]


def test_a_stage_of_the_data_imports_earlier_ones_only():
    """The folders of xtuner/dataset follow one another as rows become items."""
    wrong = set()
    for number, stage in enumerate(STAGES):
        for path in (ROOT / "dataset" / stage).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            wrong |= {
                f"{stage}/{path.name} imports {later}"
                for later in STAGES[number + 1 :]
                if f"xtuner.dataset.{later}" in text
            }
    assert wrong == set()


LIGHT = """
    cli errors language chinese locks extras checkpoint_paths data_files blocks atomic families config
    estimate.configured estimate.forecast check.checks check.names model_folder loadable recipes.catalogue
    utils api.configs api.training api.scores chat.talk
    tools.train tools.chat tools.check tools.list_cfg tools.new_cfg tools.eval
"""


@pytest.mark.parametrize("module", LIGHT.split())
def test_light_modules_import_without_torch(module):
    code = f"import sys, xtuner.{module}; "
    code += "heavy = {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", f"{code}; sys.exit(str(heavy) if heavy else 0)"]).returncode
        == 0
    )
