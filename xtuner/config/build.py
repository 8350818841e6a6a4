"""Build objects from `dict(type=X, ...)`.

    dict(type=A, b=dict(type=B, c=1), n=2)   ->   A(b=B(c=1), n=2)

Inner dicts are built first; the same dict is built once, even if used several times; arguments that a config
cannot know (`params`, `dataset`) are passed later, by name. Arguments in `unbuilt` of a class are passed as
plain config dicts.
"""

from __future__ import annotations

import functools
import inspect
import types
from typing import Any

from xtuner.config.arguments import signature_of, wrong_arguments
from xtuner.config.load import Config, name_of
from xtuner.config.ref import Ref, as_ref, dotted_ref, how_to_name
from xtuner.errors import ConfigError, XTunerError
from xtuner.language import translate


class Builder:
    """Builds configs and caches the objects, so that the same dict is the same object in all calls."""

    def __init__(self) -> None:
        self._built: dict[int, tuple[Any, Any]] = {}

    def build(self, value: Any, path: str = "config", **late: Any) -> Any:
        """The object that `value` describes; `late` adds arguments to the outermost call."""
        if isinstance(value, dict):
            target = callee_of(value, path)
            if target is not None:
                return self._call(target, value, path, late)
            if late:
                # Only a call accepts late arguments, so this type must be a name.
                raise ConfigError(
                    translate(
                        "{path}.type is {kind!r}, which names nothing{how}",
                        path=path,
                        kind=value.get("type"),
                        how=how_to_name(value.get("type")),
                    )
                )
            return Config({k: self.build(v, f"{path}.{k}") for k, v in value.items()})
        if isinstance(value, list):
            return [self.build(v, f"{path}.{i}") for i, v in enumerate(value)]
        if type(value) is tuple:
            return tuple(self.build(v, f"{path}.{i}") for i, v in enumerate(value))
        return materialise(value)

    def _call(self, target: Any, value: dict, path: str, late: dict[str, Any]) -> Any:
        if id(value) in self._built and not late:
            return self._built[id(value)][0]
        raw: frozenset[str] = getattr(target, "unbuilt", frozenset())
        given = {k: v for k, v in value.items() if k != "type"}
        if both := given.keys() & late.keys():
            raise ConfigError(
                translate(
                    "{path}.{key} is set by the run itself; remove it from the config",
                    path=path,
                    key=sorted(both)[0],
                )
            )
        kwargs = {k: v if k in raw else self.build(v, f"{path}.{k}") for k, v in given.items()}
        built = call(target, {**kwargs, **late}, path)
        self._built[id(value)] = (built, value)  # keeps `value` alive, so that its id stays unique
        return built


def build(value: Any, path: str = "config", **late: Any) -> Any:
    """The object that `value` describes, by a new `Builder`; see `Builder.build`."""
    return Builder().build(value, path, **late)


def callee_of(value: dict, path: str) -> Any:
    """The object that `value["type"]` names, or None if `value` is only a dict."""
    kind = value.get("type")
    if kind is None:
        return None
    ref = as_ref(kind)
    if ref is not None:
        found = _resolve_type(ref, path)
    else:
        # Text that is not a dotted name is data: rope_scaling=dict(type='linear', factor=2.0).
        found = None if isinstance(kind, str) else materialise(kind)
        if isinstance(kind, str) and "." in kind and kind.replace(".", "_").isidentifier():
            found = _resolve_type(Ref(kind), path)
    if found is not None and not callable(found):
        raise ConfigError(
            translate("{path}.type is {kind}, which cannot be called", path=path, kind=name_of(kind))
        )
    return found


def _resolve_type(ref: Ref, path: str) -> Any:
    try:
        return ref.resolve()
    except ConfigError as error:
        raise ConfigError(f"{path}.type: {error}") from error


def check_names(value: Any, path: str) -> None:
    """ConfigError for the first type in `value` that does not exist or does not accept one of its arguments.

    Nothing is built: an error in the last hook is found before a large model is loaded.
    """
    if isinstance(value, dict):
        target = callee_of(value, path)
        given = {k: v for k, v in value.items() if target is None or k != "type"}
        if target is not None:
            _check_arguments(target, given, path, name_of(target))
        for key, inner in given.items():
            check_names(inner, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            check_names(inner, f"{path}.{number}")
    else:
        materialise(value)


def materialise(value: Any) -> Any:
    """`value` with names resolved: Refs, dotted texts, partials of them, and names in config functions."""
    ref = dotted_ref(value)
    if ref is not None:
        # Dotted text that does not resolve is plain text.
        try:
            return ref.resolve()
        except ConfigError:
            if isinstance(value, Ref):
                raise
            return value
    if isinstance(value, functools.partial):
        kwargs = {k: materialise(v) for k, v in value.keywords.items()}
        return functools.partial(materialise(value.func), *map(materialise, value.args), **kwargs)
    if isinstance(value, types.FunctionType):
        _resolve_names_used(value.__code__, value.__globals__)
    return value


def _resolve_names_used(code: types.CodeType, namespace: dict[str, Any]) -> None:
    """Replace the Refs used in a function of a config by their objects."""
    for name in code.co_names:
        used = namespace.get(name)
        if isinstance(used, Ref):
            # `torch.nn` is used as an attribute of the module, so the outermost name is enough.
            namespace[name] = used.resolve()
        elif (
            isinstance(used, types.FunctionType)
            and used.__globals__ is namespace
            and used.__code__ is not code
        ):
            _resolve_names_used(used.__code__, namespace)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            _resolve_names_used(constant, namespace)


def call(target: Any, kwargs: dict[str, Any], path: str) -> Any:
    """`target(**kwargs)`; wrong arguments and failures become errors that name the config path."""
    name = name_of(target)
    _check_arguments(target, kwargs, path, name)
    _check_missing(target, kwargs, path, name)
    try:
        return target(**kwargs)
    except XTunerError:
        raise
    except (KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        raise ConfigError(f"{path} ({name}): {type(error).__name__}: {error}") from error


def _parameters(target: Any) -> list[inspect.Parameter] | None:
    try:
        return list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):  # some builtins have none
        return None


def _check_arguments(target: Any, kwargs: dict[str, Any], path: str, name: str) -> None:
    signature = signature_of(target)
    wrong = wrong_arguments(signature, kwargs, path, name) if signature else []
    if wrong:
        raise ConfigError(*wrong)


def _check_missing(target: Any, kwargs: dict[str, Any], path: str, name: str) -> None:
    missing = [
        p.name
        for p in _parameters(target) or []
        if p.default is p.empty
        and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and p.name not in kwargs
    ]
    if missing:
        raise ConfigError(
            translate(
                "{path}: {name} needs {key!r}; add {key}=... to this dict",
                path=path,
                name=name,
                key=missing[0],
            )
        )
