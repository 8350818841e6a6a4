"""Look up names of a config in the source text of their packages; nothing is imported.

    torch.optim.AdamW    torch/optim/__init__.py: from torch.optim.adamw import AdamW
                         torch/optim/adamw.py:    class AdamW: def __init__(self, params, lr: float = 1e-3)
    ->  Signature(("params", "lr", ...), types={"lr": {"float"}})

Importing torch takes seconds, reading these files some milliseconds. Names that are not in the text, such as
those that a package makes on request, are `UNKNOWN`; they are checked when they are built.
"""

from __future__ import annotations

import ast
import functools
import importlib.machinery
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from xtuner.config.arguments import Signature
from xtuner.config.mmengine_names import GONE, SAME_JOB
from xtuner.errors import did_you_mean
from xtuner.extras import install_module
from xtuner.language import translate

# Their names are made on request, or in C.
_OPAQUE = {"transformers", "datasets", "modelscope"}
_BINARY = tuple(importlib.machinery.EXTENSION_SUFFIXES)
_DTYPES = ("float16", "bfloat16", "float32", "float64", "half", "float", "double", "int8", "uint8", "int64")
_LIKE_DTYPE = re.compile(r"b?fl\w*\d+$|u?int\d+$")
# What loads rows through a package that few install.
_NEEDS = {"xtuner.dataset.modelscope.MsDataset": "modelscope.msdatasets.MsDataset"}
# A longer chain of imports is circular.
_MAX_STEPS = 20


class NameMissingError(LookupError):
    """The name does not exist; the message names the missing part."""


@dataclass(frozen=True)
class _Unknown:
    pass


UNKNOWN = _Unknown()


@dataclass
class _Module:
    """The names of a file with the statements that define them, and whether there may be more."""

    file: Path
    name: str
    names: dict[str, ast.stmt | ast.alias] = field(default_factory=dict)
    origins: dict[str, ast.ImportFrom | ast.Import] = field(default_factory=dict)
    is_open: bool = False

    @property
    def is_package(self) -> bool:
        return self.file.name == "__init__.py"


def look_up(path: str) -> Signature | _Unknown:
    """The signature of the object at the dotted `path`, or UNKNOWN. Raises NameMissingError."""
    path = SAME_JOB.get(path, path)
    if path in GONE:
        raise NameMissingError(
            translate("{path} has no counterpart here: {instead}", path=path, instead=translate(GONE[path]))
        )
    for name, needed in _NEEDS.items():
        if f"{path}.".startswith(f"{name}."):
            _look_up(needed, 0)
    return _look_up(path, 0)


def _look_up(path: str, steps: int) -> Signature | _Unknown:
    parts = path.split(".")
    found = _find_file(parts)
    if found is None:
        command = install_module(parts[0])
        cure = translate("Install it ({command})", command=command) if command else translate("Install it")
        raise NameMissingError(
            translate(
                "{path} cannot be imported: there is no module {module!r}. {cure}, or correct the name",
                path=path,
                module=parts[0],
                cure=cure,
            )
        )
    file, depth = found
    if file is None or parts[0] in _OPAQUE or depth == len(parts) or steps > _MAX_STEPS:
        return UNKNOWN
    module = _read(file, ".".join(parts[:depth]))
    name = parts[depth]
    if name not in module.names:
        if depth == 1 and parts[0] == "torch":
            return _name_of_torch(path, parts, file)
        if module.is_open:
            return UNKNOWN
        choices = [*module.names, *(_children(file) if module.is_package else ())]
        raise NameMissingError(
            translate(
                "{path}: {module} has no {name!r}.{hint}",
                path=path,
                module=module.name,
                name=name,
                hint=did_you_mean(name, choices),
            )
        )
    origin = module.origins.get(name)
    if origin is not None:
        return _look_up(".".join([_imported(module, name, origin), *parts[depth + 1 :]]), steps + 1)
    return _signature(module, module.names[name], parts[depth + 1 :], steps)


def _name_of_torch(path: str, parts: list[str], file: Path) -> Signature | _Unknown:
    """UNKNOWN for a dtype, which torch defines in C; NameMissingError for other names not in its text."""
    name = parts[1]
    if name in _DTYPES:
        return Signature((), is_open=True)
    hint = did_you_mean(name, _children(file) if len(parts) > 2 else _DTYPES)
    if hint and (len(parts) > 2 or _LIKE_DTYPE.match(name)):
        raise NameMissingError(
            translate("{path}: torch has no {name!r}.{hint}", path=path, name=name, hint=hint)
        )
    return UNKNOWN


def _find_file(parts: list[str]) -> tuple[Path | None, int] | None:
    """The file of the longest module at the head of `parts`, and its number of parts.

    None if there is no such package; the file is None if it is not Python.
    """
    try:
        spec = importlib.util.find_spec(parts[0])
    except ValueError:  # a module without a file, made in this process
        return None, 1
    except ImportError:
        return None
    if spec is None:
        return None
    file = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    for depth, part in enumerate(parts[1:], 1):
        package = next((f / part for f in folders if (f / part / "__init__.py").is_file()), None)
        if package is not None:
            file, folders = package / "__init__.py", [package]
            continue
        single = next((f / f"{part}.py" for f in folders if (f / f"{part}.py").is_file()), None)
        if single is not None:
            return single, depth + 1
        if any((f / f"{part}{suffix}").is_file() for f in folders for suffix in _BINARY):
            return None, depth + 1
        return file, depth
    return file, len(parts)


def _children(file: Path) -> list[str]:
    """The modules beside the `__init__.py` of a package."""
    return [path.stem for path in file.parent.iterdir() if path.suffix == ".py" or path.is_dir()]


@functools.cache
def _read(file: Path, name: str) -> _Module:
    module = _Module(file, name)
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        module.is_open = True
        return module
    for statement in _statements(tree.body):
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            _note_import(module, statement)
        elif isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            module.names[statement.name] = statement
            module.origins.pop(statement.name, None)
            # Modules of this package have only the names that they list.
            module.is_open |= statement.name == "__getattr__" and not name.startswith("xtuner.")
        elif isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                for node in ast.walk(target):
                    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                        module.names[node.id] = statement
    return module


def _note_import(module: _Module, statement: ast.Import | ast.ImportFrom) -> None:
    for alias in statement.names:
        if alias.name == "*":
            module.is_open = True
            continue
        # `import a.b` makes `a` known.
        bound = alias.asname or (
            alias.name.partition(".")[0] if isinstance(statement, ast.Import) else alias.name
        )
        module.names[bound] = alias
        module.origins[bound] = statement


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Every statement that runs on import, except in loops."""
    for statement in body:
        yield statement
        if isinstance(statement, (ast.If, ast.Try, ast.With)):
            for part in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(statement, part, []))
            for handler in getattr(statement, "handlers", []):
                yield from _statements(handler.body)


def _imported(module: _Module, name: str, origin: ast.ImportFrom | ast.Import) -> str:
    """The full name of the object that `module` imports as `name`."""
    alias = module.names[name]
    assert isinstance(alias, ast.alias)
    if isinstance(origin, ast.Import):
        return alias.name if alias.asname else name
    if not origin.level:
        return f"{origin.module}.{alias.name}"
    above = origin.level - (1 if module.is_package else 0)
    package = module.name.split(".")
    package = package[: len(package) - above] if above else package
    return ".".join([*package, *([origin.module] if origin.module else []), alias.name])


def _signature(module: _Module, statement: ast.AST, rest: list[str], steps: int) -> Signature | _Unknown:
    if isinstance(statement, ast.ClassDef) and not rest:
        return _class_signature(module, statement, steps)
    if isinstance(statement, ast.ClassDef) and len(rest) == 1:
        method = next((s for s in _functions(statement) if s.name == rest[0]), None)
        return _function_signature(method, bound=True) if method else UNKNOWN
    if isinstance(statement, ast.FunctionDef) and not rest:
        return _function_signature(statement, bound=False)
    return UNKNOWN


def _functions(statement: ast.ClassDef) -> list[ast.FunctionDef]:
    return [s for s in statement.body if isinstance(s, ast.FunctionDef)]


def _class_signature(module: _Module, statement: ast.ClassDef, steps: int) -> Signature | _Unknown:
    init = next((s for s in _functions(statement) if s.name == "__init__"), None)
    if init is not None:
        return _function_signature(init, bound=True)
    if any(s.name == "__new__" for s in _functions(statement)) or statement.keywords or steps > _MAX_STEPS:
        return UNKNOWN
    # Mixins of other packages add only methods.
    bases = [base for base in map(ast.unparse, statement.bases) if not base.endswith("HubMixin")]
    above = [_look_up(f"{module.name}.{base}", steps + 1) for base in bases if base != "object"]
    if any(isinstance(found, _Unknown) for found in above):
        return UNKNOWN
    known = [found for found in above if isinstance(found, Signature)]
    if any("dataclass" in ast.unparse(d) for d in statement.decorator_list):
        fields = [
            s
            for s in statement.body
            if isinstance(s, ast.AnnAssign)
            and isinstance(s.target, ast.Name)
            and "ClassVar" not in ast.unparse(s.annotation)
            and "init=False" not in ast.unparse(s)
        ]
        own = {s.target.id: _field_types(s) for s in fields if isinstance(s.target, ast.Name)}
        names = [name for found in known for name in found.names]
        types = {key: value for found in known for key, value in found.types.items()}
        return Signature((*names, *own), any(f.is_open for f in known), {**types, **own})
    return known[0] if known else Signature(())


def _function_signature(function: ast.FunctionDef, *, bound: bool) -> Signature:
    if any(_is_unclear(decorator) for decorator in function.decorator_list):
        return Signature((), is_open=True)
    given = function.args
    plain = given.args[1:] if bound and not _is_static(function) else given.args
    arguments = [*plain, *given.kwonlyargs]
    types = {a.arg: _types(a.annotation) for a in arguments if a.annotation is not None}
    for name in _none_by_default(given):
        if types.get(name):
            types[name] |= {"NoneType"}  # whatever the annotation says
    return Signature(tuple(a.arg for a in arguments), given.kwarg is not None, types)


def _none_by_default(given: ast.arguments) -> Iterator[str]:
    """The arguments with the default None."""
    last = given.args[len(given.args) - len(given.defaults) :]
    for argument, default in [
        *zip(last, given.defaults, strict=True),
        *zip(given.kwonlyargs, given.kw_defaults, strict=True),
    ]:
        if isinstance(default, ast.Constant) and default.value is None:
            yield argument.arg


def _is_static(function: ast.FunctionDef) -> bool:
    return any(ast.unparse(d) == "staticmethod" for d in function.decorator_list)


def _is_unclear(decorator: ast.expr) -> bool:
    """Whether a decorator may change the arguments."""
    return ast.unparse(decorator) not in ("staticmethod", "classmethod", "functools.cache", "torch.no_grad()")


def _field_types(field: ast.AnnAssign) -> frozenset[str]:
    """The types of a field of a dataclass, with None if that is its default."""
    default = field.value
    if isinstance(default, ast.Call):  # field(default=None, ...)
        default = next((k.value for k in default.keywords if k.arg == "default"), None)
    is_none = isinstance(default, ast.Constant) and default.value is None
    kinds = _types(field.annotation)
    return kinds | {"NoneType"} if is_none and kinds else kinds


def _types(annotation: ast.expr | None) -> frozenset[str]:
    """The names of the types in `float | Tensor` or `Optional[int]`."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            return _types(ast.parse(annotation.value, mode="eval").body)
        except SyntaxError:
            return frozenset({annotation.value})
    if isinstance(annotation, ast.BinOp):
        return _types(annotation.left) | _types(annotation.right)
    if isinstance(annotation, ast.Subscript):
        outer = ast.unparse(annotation.value).rpartition(".")[2]
        if outer == "Optional":
            return _types(annotation.slice) | {"NoneType"}
        if outer == "Union" and isinstance(annotation.slice, ast.Tuple):
            return frozenset().union(*map(_types, annotation.slice.elts))
        return frozenset({outer})
    text = "NoneType" if annotation is None else ast.unparse(annotation).rpartition(".")[2]
    return frozenset({"NoneType" if text == "None" else text})
