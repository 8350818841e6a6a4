"""A config that is changed in a program: its text follows, and so do the values that are computed.

    config.lr = 1e-4                                     lr = 1e-4                     in the text
    config.optim_wrapper.optimizer.lr                    1e-4
    config.train_dataloader.batch_size = 2               train_dataloader['batch_size'] = 2    below it
    config.custom_hooks.append(dict(type=MyHook))        from my_module import MyHook          above it

A run is written back as its text, so what a text cannot say is an error here.
"""

from __future__ import annotations

import ast
import functools
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xtuner.config.load import Config, parse_config
from xtuner.config.ref import Ref
from xtuner.errors import ConfigError
from xtuner.language import translate

_PLAIN = (str, int, float, bool, bytes, type(None))


class EditableConfig(Config):
    """An outermost config; `text` says what its values are at any time."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        # The text as it was last read. `text` itself may differ, after a change further inside.
        object.__setattr__(self, "_known_text", config.text)
        object.__setattr__(self, "filename", config.filename)

    @property
    def text(self) -> str:  # type: ignore[override]
        """The Python file that gives these values."""
        self._settle()
        return self._known_text

    def __str__(self) -> str:
        return self.text

    def __setitem__(self, name: str, value: Any) -> None:
        before = self.get(name)
        is_new = name not in self
        super().__setitem__(name, value)
        try:
            self._settle()
        except ConfigError:
            # The config stays as it was.
            if is_new:
                super().__delitem__(name)
            else:
                super().__setitem__(name, before)
            raise

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delitem__(self, name: str) -> None:
        raise ConfigError(translate("{name} cannot be removed from a config: set it to None", name=name))

    def __reduce__(self) -> Any:
        return _read, (self.text, self.filename)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set several names."""
        for name, value in dict(*args, **kwargs).items():
            self[name] = value

    def _settle(self) -> None:
        """Write changes into the text, and take what follows from them."""
        config = with_changes(parse_config(self._known_text, self.filename), self)
        object.__setattr__(self, "_known_text", config.text)
        for name, value in config.items():
            if name not in self or not _same(self[name], value):
                super().__setitem__(name, value)


def _read(text: str, filename: str) -> EditableConfig:
    return EditableConfig(parse_config(text, filename))


def with_changes(base: Config, now: Mapping[str, Any]) -> Config:
    """The config of `base.text` with the values of `now` that differ from `base`."""
    changes = dict(_changes(base, now, ""))
    if not changes:
        return base
    writer = _Writer(base.text)
    options = {path: writer.code_of(value, path) for path, value in changes.items()}
    text = writer.text()
    try:
        # Once for the text, once for the values of names in it.
        changed = parse_config(text, base.filename, options)
    except ConfigError as error:
        raise ConfigError(*(str(message).replace("--cfg-options ", "") for message in error.args)) from None
    return parse_config(changed.text, base.filename)


def _changes(
    base: Any, now: Any, path: str, seen: set[tuple[int, int]] | None = None
) -> Iterator[tuple[str, Any]]:
    """The dotted paths of what differs, with the new values; of a dict that stands in several places, one."""
    seen = set() if seen is None else seen
    if isinstance(now, (dict, list)):
        if (id(base), id(now)) in seen:
            return
        seen.add((id(base), id(now)))
    below = f"{path}." if path else ""
    if isinstance(base, Mapping) and isinstance(now, Mapping) and (not path or base.keys() <= now.keys()):
        for key, value in now.items():
            if key in base:
                yield from _changes(base[key], value, f"{below}{key}", seen)
            else:
                yield f"{below}{key}", value
    elif isinstance(base, list) and isinstance(now, list) and len(base) == len(now):
        for number, pair in enumerate(zip(base, now, strict=True)):
            yield from _changes(*pair, f"{below}{number}", seen)
    elif not _same(base, now):
        yield path, now


def _same(one: Any, other: Any) -> bool:
    """Whether two values of configs are equal; functions by their code, since a text is read anew."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and type(one) is type(other):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, types.FunctionType) and isinstance(other, types.FunctionType):
        return one is other or (one.__code__ == other.__code__ and one.__module__ == other.__module__)
    if isinstance(one, functools.partial) and isinstance(other, functools.partial):
        parts = [(p.func, list(p.args), p.keywords) for p in (one, other)]
        return all(map(_same, *parts))
    return type(one) is type(other) and bool(one == other)


class _Code:
    """A piece of source, as what `repr` writes."""

    def __init__(self, code: str) -> None:
        self._code = code

    def __repr__(self) -> str:
        return self._code


class _Writer:
    """Writes values as source, and the imports that they need above a text."""

    def __init__(self, text: str) -> None:
        self._text = text
        tree = ast.parse(text)
        self._names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        self._known: dict[str, str] = {}
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and not node.level:
                for alias in node.names:
                    self._known[f"{node.module}.{alias.name}"] = alias.asname or alias.name
                    self._names.add(alias.asname or alias.name)
        imports = [s for s in tree.body if isinstance(s, ast.ImportFrom)]
        # Python wants these first.
        self._start = max((s.end_lineno or 0 for s in imports if s.module == "__future__"), default=0)
        self._imports: list[str] = []

    def text(self) -> str:
        """The text with the imports."""
        lines = self._text.split("\n")
        return "\n".join([*lines[: self._start], *self._imports, *lines[self._start :]])

    def code_of(self, value: Any, path: str) -> Any:
        """What `repr` writes as the source of `value`."""
        if type(value) in _PLAIN:
            return value
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, Mapping):
            return {key: self.code_of(item, f"{path}.{key}") for key, item in value.items()}
        if type(value) in (list, tuple, set):
            return type(value)(self.code_of(item, path) for item in value)
        return _Code(self._name(value, path))

    def _name(self, value: Any, path: str) -> str:
        """The name by which the text calls `value`, which it imports."""
        found = _importable(value)
        if found is None:
            raise ConfigError(
                translate(
                    "{path} is {value}, which the file of a config cannot name: give a number, a text, a "
                    "list, a dict, or a class or function that can be imported",
                    path=path,
                    value=repr(value)[:80],
                )
            )
        module, _, name = found[0].rpartition(".")
        if found[0] not in self._known:
            known, number = name, 2
            while known in self._names:
                known, number = f"{name}_{number}", number + 1
            self._imports.append(f"from {module} import {name}" + (f" as {known}" if known != name else ""))
            self._names.add(known)
            self._known[found[0]] = known
        return self._known[found[0]] + found[1]


def _importable(value: Any) -> tuple[str, str] | None:
    """The dotted name to import, and what follows it: `("transformers.AutoTokenizer", ".from_pretrained")`.

    Of a name of a config, a class, a function, a method of a class or a dtype; None of all else.
    """
    if isinstance(value, Ref) or (type(value).__module__ == "torch" and str(value).startswith("torch.")):
        parts = str(value).split(".")
        # A class is imported, not what is in it.
        depth = next((i for i, part in enumerate(parts, 1) if part[:1].isupper()), len(parts))
        return ".".join(parts[:depth]), "".join(f".{part}" for part in parts[depth:])
    if isinstance(value, types.MethodType) and isinstance(value.__self__, type):
        owner: Any = value.__self__
        names = [*owner.__qualname__.split("."), value.__name__]
    elif isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
        owner, names = value, value.__qualname__.split(".")
    else:
        return None
    # A local function or a lambda has no name that can be imported.
    if not owner.__module__ or not all(name.isidentifier() for name in names):
        return None
    return f"{owner.__module__}.{names[0]}", "".join(f".{name}" for name in names[1:])
