"""The classes and functions that configs and programs import, as a page that mkdocstrings fills.

from xtuner.engine.hooks import CheckpointHook    ->  ::: xtuner.engine.hooks.checkpoint.CheckpointHook
                                                      under the heading xtuner.engine.hooks.CheckpointHook
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from xtuner.config.mmengine_names import SAME_JOB
from xtuner.config.ref import Ref
from xtuner.config.unsupported import feature_of
from xtuner.errors import NotFoundError
from xtuner.recipes.catalogue import Recipe, find, names
from xtuner.recipes.render import render

ROOT = Path(__file__).parents[2]
_IMPORT = re.compile(r"^from \w[\w.]* import (?:\([^)]*\)|(?:\\\n|[^\n(])+)", re.M)


def python_page() -> str:
    """The names that built-in configs, pages and examples import, by package, for mkdocstrings."""
    by_package: dict[str, list[str]] = defaultdict(list)
    for name in sorted(imported_names()):
        place = defined_at(name)
        by_package[".".join(place.split(".")[:2])].append(
            f"::: {place}\n    options:\n      heading: {name}\n      toc_label: {name.rpartition('.')[2]}"
        )
    parts = [
        "# Python",
        "The classes and functions that built-in configs, these pages and `examples/` import, from their "
        "docstrings. A heading is the name to import; for mmengine and datasets, XTuner's own are taken.",
    ]
    for package, members in sorted(by_package.items()):
        parts += [f"## {package}", *members]
    return "\n\n".join(parts) + "\n"


def defined_at(name: str) -> str:
    """The path of the definition of an importable name; of a value, the path of its import."""
    found = Ref(name).resolve()
    module, qualified = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    return f"{module}.{qualified}" if module and qualified else SAME_JOB.get(name, name)


def imported_names() -> set[str]:
    """`xtuner.model.SupervisedFinetune` for each name of ours that a config, a page or an example imports."""
    texts = [render(recipe) for recipe in _recipes()]
    for page in [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]:
        texts += python_blocks(page.read_text(encoding="utf-8"))
    texts += [path.read_text(encoding="utf-8") for path in (ROOT / "examples").glob("*.py")]
    found = set()
    for statement in {s for text in texts for s in _IMPORT.findall(text)}:
        for node in ast.walk(ast.parse(statement)):
            if isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if _is_ours(name)}


def _is_ours(name: str) -> bool:
    if feature_of(name):
        return False
    return name in SAME_JOB or name.split(".")[0] == "xtuner"


def _recipes() -> Iterator[Recipe]:
    """Every built-in config."""
    for name in names():
        try:
            yield find(name)
        except NotFoundError:  # DeepSpeed settings, and former scripts
            continue


def python_blocks(text: str) -> list[str]:
    """The Python in a page."""
    return re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)
