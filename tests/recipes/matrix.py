"""A config text reduced to what the table of the original's configs holds.

    lr = 2e-4                                {"settings": {"lr": 0.0002, ...},
    model = dict(type=Net, depth=depth)  ->   "components": [{"type": "Net", "depth": "depth"}, ...]}

Names and expressions become their source text, a dict inside a component becomes "<nested>" (it is a
component of its own where it has a type).
"""

from __future__ import annotations

import ast

# assigned at the top level, but no settings
RUNTIME = {"visualizer", "log_level", "load_from", "resume"}


def reduce_config(text: str) -> dict:
    """The settings and components of a config, names as strings."""
    tree = ast.parse(text)
    settings = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and not _is_structure(node.value):
            name = node.targets[0].id
            if name not in RUNTIME:
                settings[name] = _value(node.value)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_dict(node)]
    components = [{k.arg: _value(k.value) for k in call.keywords} for call in calls]
    return {"settings": settings, "components": [c for c in components if "type" in c]}


def _is_dict(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict"


def _is_structure(node: ast.AST) -> bool:
    return _is_dict(node) or (isinstance(node, ast.List) and any(map(_is_dict, node.elts)))


def _value(node: ast.AST):
    if _is_dict(node):
        return "<nested>"
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
    return list(value) if isinstance(value, tuple) else value
