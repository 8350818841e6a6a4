"""Check the arguments of a call against a signature, of a real object or read from source text.

signature  (params, lr: float | Tensor = 1e-3, *, foreach: bool | None = None)
given      {"lr": "abc", "forech": True}
wrong      "optimizer.lr is 'abc'; AdamW takes float here"
           "optimizer.forech: AdamW has no argument 'forech'. Did you mean 'foreach'?"
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from xtuner.config.ref import dotted_ref
from xtuner.errors import did_you_mean
from xtuner.language import translate

# Types whose values are neither text nor list; whole numbers; types whose values are text.
_NUMBERS = {"int", "float", "bool", "NoneType", "Tensor"}
_WHOLE = {"int", "bool", "NoneType"}
_TEXTS = {"str", "NoneType"}
_PLAIN = _NUMBERS | _TEXTS


@dataclass(frozen=True)
class Signature:
    """The names of the arguments and their types; `is_open`: it accepts any name."""

    names: tuple[str, ...]
    is_open: bool = False
    types: Mapping[str, frozenset[str]] = field(default_factory=dict)


def signature_of(target: Any) -> Signature | None:
    """The signature of a real object; None if it has none, as some builtins."""
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        return None
    names = tuple(p.name for p in parameters if p.kind not in (p.POSITIONAL_ONLY, p.VAR_KEYWORD))
    kinds = _types_of(target)
    # An argument with the default None may be None, even if its annotation excludes it.
    nones = {
        p.name: kinds[p.name] | {"NoneType"} for p in parameters if p.default is None and p.name in kinds
    }
    return Signature(names, any(p.kind is p.VAR_KEYWORD for p in parameters), {**kinds, **nones})


def _types_of(target: Any) -> dict[str, frozenset[str]]:
    try:
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    # Names imported only for type checking, or no annotations.
    except (NameError, TypeError, AttributeError):
        return {}
    names_of_types = {}
    for name, hint in hints.items():
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        kinds = typing.get_args(hint) if union else [hint]
        names_of_types[name] = frozenset(getattr(kind, "__name__", "") for kind in kinds)
    return names_of_types


def wrong_arguments(signature: Signature, given: Mapping[str, Any], path: str, name: str) -> list[str]:
    """A sentence for each argument of `given` that `name` does not accept, by its name or its type."""
    wrong = []
    for key, value in given.items():
        if not signature.is_open and key not in signature.names:
            hint = did_you_mean(key, signature.names)
            wrong.append(
                translate(
                    "{path}.{key}: {name} has no argument {key!r}.{hint}",
                    path=path,
                    key=key,
                    name=name,
                    hint=hint,
                )
            )
            continue
        kinds = signature.types.get(key, frozenset())
        if _cannot_be(value, kinds):
            wanted = translate(" or ").join(sorted(kinds - {"NoneType", "Tensor"}))
            wrong.append(
                translate(
                    "{path}.{key} is {value!r}; {name} takes {wanted} here",
                    path=path,
                    key=key,
                    value=value,
                    name=name,
                    wanted=wanted,
                )
            )
    return wrong


def _cannot_be(value: Any, kinds: frozenset[str]) -> bool:
    """Whether `value` is certainly of none of the types `kinds`."""
    if not kinds or dotted_ref(value) is not None:
        return False
    if value is None:
        return kinds <= _PLAIN and "NoneType" not in kinds
    is_list = isinstance(value, (list, tuple))
    return (
        (kinds <= _NUMBERS and (is_list or isinstance(value, str)))
        or (kinds <= _WHOLE and isinstance(value, float))
        or (kinds <= _TEXTS and (is_list or isinstance(value, (int, float))))
    )
