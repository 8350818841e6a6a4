"""Parameters of what configs and programs name: none goes away or changes its default.

    xtuner.dataset.samplers.DefaultSampler    ->    dataset
                                                    shuffle = True
                                                    seed = None

A new parameter, with a default, is written into the file by: python -m tests.api.test_signatures
"""

import importlib
import inspect
from pathlib import Path

import xtuner
from tests.api.test_config_imports import STABLE

FILE = Path(__file__).parents[1] / "data" / "signatures.txt"
# `xtuner.chat` is a package that can be called.
PUBLIC = {**STABLE, "xtuner": " ".join(xtuner.__all__), "xtuner.chat.talk": "chat"}


def parameters(path: str) -> list[str]:
    """A line for each parameter of a class or function, with its default; none of what cannot be called."""
    module, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    if inspect.ismodule(found) or not callable(found):
        return []
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [
        f"{stars.get(each.kind, '')}{each.name}"
        + ("" if each.default is inspect.Parameter.empty else f" = {default_text(each.default)}")
        for each in inspect.signature(found).parameters.values()
    ]


def default_text(value: object) -> str:
    """The default as text that is the same in each process and version of Python."""
    return getattr(value, "__qualname__", None) or repr(value)


def written() -> dict[str, list[str]]:
    """The parameters of each name in the file."""
    blocks = FILE.read_text("utf-8").strip().split("\n\n")
    return {lines[0]: [line.strip() for line in lines[1:]] for lines in map(str.splitlines, blocks)}


def current() -> dict[str, list[str]]:
    paths = sorted(f"{module}.{name}" for module, names in PUBLIC.items() for name in names.split())
    return {path: parameters(path) for path in paths}


def test_parameters_are_those_of_the_file():
    """A difference that takes something from users needs a deprecation first, and a line in CHANGELOG.md."""
    assert current() == written()


def test_everything_that_is_exported_is_there():
    """`__all__` of the public packages names nothing that cannot be imported."""
    for module in PUBLIC:
        found = importlib.import_module(module)
        assert [name for name in getattr(found, "__all__", []) if not hasattr(found, name)] == [], module


if __name__ == "__main__":
    blocks = ["\n    ".join([path, *lines]) for path, lines in current().items()]
    FILE.write_text("\n\n".join(blocks) + "\n", "utf-8")
