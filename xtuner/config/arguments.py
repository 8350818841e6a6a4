"""Whether a call takes the arguments it is given: the one rule for real objects and for names in source text.

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

# Types of arguments that no text and no list stands for, and those that only text does.
_NUMBERS = {"int", "float", "bool", "NoneType", "Tensor"}
_WHOLE = {"int", "bool", "NoneType"}
_TEXTS = {"str", "NoneType"}
_PLAIN = _NUMBERS | _TEXTS


@dataclass(frozen=True)
class Signature:
    """The names of arguments that may be given, and of which types each is; `is_open` takes any name."""

    names: tuple[str, ...]
    is_open: bool = False
    types: Mapping[str, frozenset[str]] = field(default_factory=dict)


def signature_of(target: Any) -> Signature | None:
    """The signature of a real object; None where it has none, as some builtins."""
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        return None
    names = tuple(p.name for p in parameters if p.kind not in (p.POSITIONAL_ONLY, p.VAR_KEYWORD))
    kinds = _types_of(target)
    # An argument that is None by default may be None, whatever its annotation says.
    nones = {
        p.name: kinds[p.name] | {"NoneType"} for p in parameters if p.default is None and p.name in kinds
    }
    return Signature(names, any(p.kind is p.VAR_KEYWORD for p in parameters), {**kinds, **nones})


def _types_of(target: Any) -> dict[str, frozenset[str]]:
    try:
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    # Names that a module imports for the type checker only, or no annotations at all.
    except (NameError, TypeError, AttributeError):
        return {}
    found = {}
    for name, hint in hints.items():
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        kinds = typing.get_args(hint) if union else [hint]
        found[name] = frozenset(getattr(kind, "__name__", "") for kind in kinds)
    return found


def wrong_arguments(signature: Signature, given: Mapping[str, Any], path: str, name: str) -> list[str]:
    """A sentence for each of `given` that `name` does not take, or not as a value of this kind."""
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
    """Whether `value` is certainly of none of `kinds`."""
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
