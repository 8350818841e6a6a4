"""The line that imports a name which a config uses but does not import.

    EarlyStoppingHook   in __all__ of xtuner/engine/hooks/__init__.py
    ->  from xtuner.engine.hooks import EarlyStoppingHook

Read from the source text of the packages, since importing them takes seconds.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import xtuner

_OURS = Path(xtuner.__file__).parent
# Of other packages: where the names stand that configs use, and what imports them.
_OTHERS = (
    ("peft", "__init__.py"),
    ("torch.optim", "optim/__init__.py"),
    ("torch.utils.data", "utils/data/__init__.py"),
    ("transformers", "__init__.py"),
    ("transformers", "models/*/*.py"),
)


def import_line(name: str) -> str | None:
    """`from MODULE import NAME`, or None if no package that configs use has the name, or several have."""
    if name == "torch":
        return "import torch"
    module = _module(name)
    return module and f"from {module} import {name}"


def whole_name(name: str) -> str | None:
    """`MODULE.NAME` of a name that can be imported so; else None."""
    module = _module(name)
    return module and f"{module}.{name}"


def _module(name: str) -> str | None:
    modules = _ours(name) or list(_of_others(name)) if name.isidentifier() else []
    return modules[0] if len(modules) == 1 else None


def _ours(name: str) -> list[str]:
    """The module of XTuner with the shortest path that lists a name, or else all that define it."""
    listing = re.compile(rf'^__all__ = \[[^]]*"{name}"', re.M)
    definition = re.compile(rf"^(?:class|def) {name}\b", re.M)
    texts = {_module_of(file): file.read_text(encoding="utf-8") for file in _OURS.rglob("*.py")}
    listed = [module for module, text in texts.items() if listing.search(text)]
    if listed:
        return [min(listed, key=lambda module: (module.count("."), module))]
    return [module for module, text in texts.items() if definition.search(text)]


def _module_of(file: Path) -> str:
    parts = file.relative_to(_OURS.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _of_others(name: str) -> Iterator[str]:
    """The packages of _OTHERS that list a class; other names are not looked for."""
    if not name[:1].isupper():
        return
    for module, files in _OTHERS:
        spec = importlib.util.find_spec(module.partition(".")[0])
        for folder in spec.submodule_search_locations or () if spec else ():
            if any(f'"{name}"' in file.read_text(encoding="utf-8") for file in Path(folder).glob(files)):
                yield module
                break
