"""References to importable objects by name, without importing them.

from torch.optim import AdamW         AdamW            -> Ref('torch.optim.AdamW')
import torch                          torch.float16    -> Ref('torch.float16')
                                      .resolve()       -> the real torch.float16
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from xtuner.config.import_lines import whole_name
from xtuner.config.mmengine_names import BY_SHORT_NAME, GONE, SAME_JOB
from xtuner.config.unsupported import feature_of
from xtuner.errors import ConfigError, did_you_mean
from xtuner.language import translate

# Packages whose dotted names in texts, as in saved configs, are references.
_PACKAGES = (
    "xtuner",
    "torch",
    "transformers",
    "peft",
    "mmengine",
    "datasets",
    "bitsandbytes",
    "schedulefree",
)
HOW_TO_NAME = "; import it in the config, or write its whole name, such as {example!r}.{hint}"


class Ref:
    """A dotted name with the position of its import; attribute access makes a longer name."""

    __slots__ = ("_imported", "_origin", "_path")

    def __init__(self, path: str, origin: str = "", imported: tuple[str, str] | None = None):
        self._path = path
        self._origin = origin
        # The name in the import statement, and its position.
        self._imported = imported or (path, origin)

    def __getattr__(self, name: str) -> Ref:
        if name.startswith("__"):
            raise AttributeError(name)
        used = sys._getframe(1)
        file = used.f_code.co_filename
        # The position of a longer name is its use in the config, not the import of its beginning.
        here = self._origin and self._origin.rpartition(":")[0] == file
        origin = f"{file}:{used.f_lineno}" if here else self._origin
        path = f"{self._path}.{name}"
        # `from a import b` takes b of a in its own line.
        is_import = origin == self._imported[1] and self._imported[0] == self._path
        return Ref(path, origin, (path, origin) if is_import else self._imported)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = self._path.rpartition(".")[2]
        raise ConfigError(
            translate(
                "{place}{path} is called, but a config only names things: write dict(type={name}, "
                "...) instead of {name}(...)",
                place=self._at(),
                path=self._path,
                name=name,
            )
        )

    def __mro_entries__(self, bases: tuple) -> tuple:
        return (self.resolve(),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and other._path == self._path

    def __hash__(self) -> int:
        return hash(self._path)

    def __repr__(self) -> str:
        return self._path

    def __format__(self, spec: str) -> str:
        return format(self._text(), spec)

    def __add__(self, other: Any) -> Any:
        return self._text() + other

    def __radd__(self, other: Any) -> Any:
        return other + self._text()

    def _at(self, part: str | None = None) -> str:
        """The position of the name, or of its import if the wrong `part` was imported."""
        name, place = self._imported
        origin = place if part is not None and f"{name}.".startswith(f"{part}.") else self._origin
        return f"{origin}: " if origin else ""

    def _text(self) -> str:
        """The text of this name, for configs that extend a system template; only of xtuner.utils."""
        value = self.resolve() if self._path.startswith("xtuner.utils.") else None
        if not isinstance(value, str):
            raise ConfigError(
                translate(
                    "{place}{path} is used as text, but it only names an object",
                    place=self._at(),
                    path=self._path,
                )
            )
        return value

    def resolve(self) -> Any:
        """The object of this name; ConfigError names the part that does not exist and its import."""
        path = SAME_JOB.get(self._path, self._path)
        if path in GONE:
            raise ConfigError(
                translate(
                    "{place}{path} has no counterpart here: {instead}",
                    place=self._at(),
                    path=path,
                    instead=translate(GONE[path]),
                )
            )
        if feature := feature_of(path):
            raise ConfigError(f"{self._at()}{path}: {feature.sentence}")
        parts = path.split(".")
        for i in range(len(parts), 0, -1):
            name = ".".join(parts[:i])
            try:
                found = importlib.import_module(name)
            except ModuleNotFoundError as error:
                # A missing dependency inside the module is not a wrong name.
                if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
                    raise ConfigError(
                        translate(
                            "{place}{path} cannot be imported: {error}",
                            place=self._at(),
                            path=path,
                            error=error,
                        )
                    ) from error
                continue
            except Exception as error:
                raise ConfigError(
                    translate(
                        "{place}{path} cannot be imported: {error}", place=self._at(), path=path, error=error
                    )
                ) from error
            return self._follow(found, path, parts[:i], parts[i:])
        raise ConfigError(
            translate(
                "{place}{path} cannot be imported: there is no module {module!r}. Install it, or "
                "correct the name",
                place=self._at(parts[0]),
                path=path,
                module=parts[0],
            )
        )

    def _follow(self, found: Any, path: str, module: list[str], attributes: list[str]) -> Any:
        for number, attribute in enumerate(attributes, 1):
            try:
                found = getattr(found, attribute)
            except ConfigError as error:
                # The error of a table of names includes the nearest ones.
                raise ConfigError(f"{self._at()}{error}") from error
            except AttributeError as error:
                hint = did_you_mean(attribute, dir(found))
                owner = getattr(found, "__name__", type(found).__name__)
                place = self._at(".".join([*module, *attributes[:number]]))
                raise ConfigError(
                    translate(
                        "{place}{path}: {owner} has no {attribute!r}.{hint}",
                        place=place,
                        path=path,
                        owner=owner,
                        attribute=attribute,
                        hint=hint,
                    )
                ) from error
        return found


def path_of(ref: Ref) -> str:
    """The dotted name of `ref` as written in the config."""
    return ref._path


def as_ref(kind: Any) -> Ref | None:
    """The Ref of a `type`: as `dotted_ref`, and of a registry name of mmengine."""
    if isinstance(kind, str) and kind in BY_SHORT_NAME:
        return Ref(BY_SHORT_NAME[kind])
    return dotted_ref(kind)


def dotted_ref(value: Any) -> Ref | None:
    """A Ref of a Ref or a dotted text of a known package; None for all else, such as a word."""
    if isinstance(value, Ref):
        return value
    if isinstance(value, str):
        package, dot, rest = value.partition(".")
        if dot and package in _PACKAGES and all(part.isidentifier() for part in rest.split(".")):
            return Ref(value)
    return None


def how_to_name(kind: Any) -> str:
    """The end of the message that a type names nothing: how types are named, and the nearest short name."""
    example = whole_name(str(kind)) or "torch.optim.AdamW"
    return translate(HOW_TO_NAME, example=example, hint=did_you_mean(str(kind), BY_SHORT_NAME))
