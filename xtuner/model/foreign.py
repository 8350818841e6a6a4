"""Code of other packages that ours replaces: only if it is the code that ours was proven against.

    LlamaAttention.forward    its source, without comments, formatting and annotations, and that of the
                              functions of its module that it calls        ->  a fingerprint: 1f2e3d4c5b6a
    proven.json               of each function the fingerprints with which the tests passed, and the versions
                              of the package

A function that a new version, or another package, has changed is not replaced; that is logged once. After the
tests have passed with a new version, `make prove PACKAGE=transformers==5.25.0` adds it.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

from xtuner.families import FAMILIES
from xtuner.language import translate
from xtuner.log import say_once

FILE = Path(__file__).with_name("proven.json")
# The functions that ours replace or rely on, besides the layers that families.py names.
FUNCTIONS = (
    "peft.tuners.lora.layer.Linear.forward",
    "peft.tuners.lora.bnb.Linear4bit.forward",
    "peft.tuners.lora.bnb.Linear8bitLt.forward",
    "peft.tuners.lora.layer.ParamWrapper.forward",
    "peft.tuners.lora.layer.ParamWrapper.get_delta_weight",
    "transformers.integrations.moe.use_experts_implementation",
    "transformers.integrations.moe._default_apply_gate",
    "transformers.masking_utils.find_packed_sequence_indices",
    "transformers.modeling_rope_utils.dynamic_rope_update",
    "transformers.models.bloom.modeling_bloom.build_alibi_tensor",
    "transformers.models.falcon.modeling_falcon.build_alibi_tensor",
    "transformers.models.mpt.modeling_mpt.build_mpt_alibi_tensor",
    "bitsandbytes.nn.modules.Linear4bit.forward",
    "bitsandbytes.nn.modules.Linear8bitLt.forward",
)
# Fields of the syntax tree that do not change what is computed.
_IGNORED = {"annotation", "returns", "type_comment", "type_params", "ctx", "kind"}


def is_proven(code: Any, cost: str) -> bool:
    """Whether ours was proven against `code`, a function or a class with a forward pass.

    If it was not, that is logged once; `cost` names the consequence.
    """
    name = f"{code.__module__}.{code.__qualname__}"
    is_class = isinstance(code, type)
    path, function = (f"{name}.forward", code.forward) if is_class else (name, code)
    if fingerprint(function) in proven().get(path, {}):
        return True
    package = name.split(".")[0]
    version = getattr(sys.modules.get(package), "__version__", translate("of an unknown version"))
    say_once(
        "{name} of {package} {version} is not the code that XTuner's own was proven against: {cost}",
        name=name,
        package=package,
        version=version,
        cost=translate(cost),
    )
    return False


@functools.cache
def proven() -> dict[str, dict[str, list[str]]]:
    """Path of a function -> its proven fingerprints -> versions of the package."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def guarded() -> Iterator[str]:
    """The paths of all functions that are checked."""
    layers = {
        layer
        for family in FAMILIES.values()
        if family.fused is not None
        for layer in (family.fused.layer, family.fused.attention, family.fused.norm, family.fused.mlp)
        if layer is not None and not layer.startswith("xtuner.")
    }
    for family in FAMILIES.values():
        layers |= set(astuple(family.own_attention)) if family.own_attention is not None else set()
    yield from sorted(f"{layer}.forward" for layer in layers)
    yield from FUNCTIONS


@functools.cache
def fingerprint(function: Callable[..., Any]) -> str:
    """A hash that ignores formatting and comments; empty if there is no source."""
    try:
        trees = list(_trees(function, set()))
    except (OSError, TypeError, SyntaxError):
        return ""
    return hashlib.sha256(repr(trees).encode()).hexdigest()[:12]


def _trees(function: Any, seen: set[Any]) -> Iterator[Any]:
    function = inspect.unwrap(function)
    if function in seen:
        return
    seen.add(function)
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    yield _plain(tree)
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    for name in sorted(called):
        other = function.__globals__.get(name)
        if inspect.isfunction(other) and other.__module__ == function.__module__:
            yield from _trees(other, seen)


def _plain(node: Any) -> Any:
    """A syntax tree as tuples, the same in every version of Python, without docstrings."""
    if isinstance(node, list):
        return [_plain(x) for x in node]
    if not isinstance(node, ast.AST):
        return node
    fields = {name: value for name, value in ast.iter_fields(node) if name not in _IGNORED}
    if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
        fields["body"] = node.body[1:]
    kept = ((name, _plain(value)) for name, value in fields.items() if value not in (None, []))
    return type(node).__name__, *kept
