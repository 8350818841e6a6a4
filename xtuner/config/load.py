"""Load a Python file as a `Config`: the file runs, its imports become `Ref`s, nothing large is imported.

    lr = 2e-4                                      options {"lr": 1e-4}: replaced before the file runs,
    optim_wrapper = dict(optimizer=dict(lr=lr))    so optim_wrapper.optimizer.lr is 1e-4 too
                                                   options {"optim_wrapper.optimizer.lr": 1e-4}: patched after

`Config.text` is the text with the options written into it: loading it again gives the same run.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from xtuner.config.import_lines import import_line
from xtuner.config.ref import Ref, path_of
from xtuner.config.schema import RUN_KEYS
from xtuner.errors import ConfigError, NotFoundError, did_you_mean
from xtuner.language import translate
from xtuner.paths import near_it


class Config(dict):
    """A dict whose keys are attributes too; the outermost one also knows its `text` and `filename`."""

    text: str
    filename: str

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                translate("the config has no {name!r}.{hint}", name=name, hint=did_you_mean(name, self))
            ) from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("text", "filename"):
            object.__setattr__(self, name, value)
        else:
            self[name] = value


def with_values(config: Config, **values: Any) -> Config:
    """A copy of an outermost config with other values of these names."""
    changed = Config({**config, **values})
    changed.text, changed.filename = config.text, config.filename
    return changed


def load_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """The config in the file `path` with `options` applied (names or dotted paths to values)."""
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(
            translate("there is no config file {path!r}{near}", path=str(path), near=near_it(path))
        )
    return parse_config(_read(path), str(path), options)


def parse_config(text: str, filename: str, options: dict[str, Any] | None = None) -> Config:
    """The config in `text`; `filename` is used for messages and relative imports."""
    options = dict(options or {})
    tree = _parse(text, filename)
    _refuse_text_base(tree, filename)
    assigned = _assigned_names(tree.body)
    based = _relative_imports(text, tree, filename)
    if based and any("." not in key and key not in assigned for key in options):
        # Values of a base file are replaced before other values are computed from them.
        text = _flatten(text, filename)
        tree = _parse(text, filename)
        assigned = _assigned_names(tree.body)
    before = {k: v for k, v in options.items() if k in assigned}
    after = {k: v for k, v in options.items() if k not in before}
    text = _write_values(text, tree, before)
    namespace = _run(text, filename)
    tree = _parse(text, filename)
    known = set(_assigned_names(tree.body)) | set(namespace.get("__based__", ()))
    for _, imports in _relative_imports(text, tree, filename):
        known |= {alias.asname for statement in imports for alias in statement.names if alias.asname}
    config = _as_config({k: v for k, v in namespace.items() if k in known and _is_value(k, v)}, {})
    lines = [_patch(config, key, value) for key, value in after.items()]
    if lines:
        text = text.rstrip("\n") + "\n\n" + "\n".join(lines) + "\n"
    config.text = _flatten(text, filename)
    config.filename = filename
    return config


def read_base() -> contextlib.AbstractContextManager[None]:
    """A context around imports of other configs: `with read_base(): from .base import *`."""
    return contextlib.nullcontext()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(translate("{path}: not UTF-8 text: {error}", path=path, error=error)) from error


def _parse(text: str, filename: str) -> ast.Module:
    try:
        return ast.parse(text, filename)
    except SyntaxError as error:
        raise ConfigError(f"{filename}:{error.lineno}: {error.msg}") from error


def _refuse_text_base(tree: ast.Module, filename: str) -> None:
    """ConfigError for `_base_`, mmengine's older form of a base."""
    for statement in tree.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == "_base_" for target in targets):
            raise ConfigError(
                translate(
                    "{filename}:{lineno}: _base_ is not read; import the names of the other file: "
                    "from xtuner.config import read_base, then with read_base(): from .other "
                    "import *",
                    filename=filename,
                    lineno=statement.lineno,
                )
            )


def _relative_imports(
    text: str, tree: ast.Module, filename: str
) -> list[tuple[ast.stmt, list[ast.ImportFrom]]]:
    """Statements of relative imports, each with its imports: itself, or those in `with read_base():`.

    ConfigError for one that `_flatten` cannot replace by the text of the other file.
    """
    lines = text.split("\n")
    found = []
    for statement in tree.body:
        inner = statement.body if isinstance(statement, ast.With) else [statement]
        imports = [s for s in inner if isinstance(s, ast.ImportFrom) and s.level]
        rest = lines[statement.lineno - 1].encode()[: statement.col_offset]
        rest += lines[(statement.end_lineno or 0) - 1].encode()[statement.end_col_offset :]
        if imports == inner and not rest.partition(b"#")[0].strip():
            found.append((statement, imports))
    flat = {node for _, imports in found for node in imports}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        origin = f"{filename}:{node.lineno}"
        if node.module is None:
            raise ConfigError(
                translate(
                    "{origin}: write 'from .{name} import *' instead of 'from . import {name}'",
                    origin=origin,
                    name=node.names[0].name,
                )
            )
        if node not in flat:
            raise ConfigError(
                translate(
                    "{origin}: write an import of another config on a line of its own at the top level of "
                    "the file, or in 'with read_base():' with nothing but such imports",
                    origin=origin,
                )
            )
    return found


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Every statement in the scope of the file, including those inside if, for, with and try."""
    for statement in body:
        yield statement
        for field in ("body", "orelse", "finalbody"):
            if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield from _statements(getattr(statement, field, []))


def _assigned_names(body: list[ast.stmt]) -> set[str]:
    names = set()
    for statement in _statements(body):
        targets: list[ast.expr] = []
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, (ast.AnnAssign, ast.AugAssign)):
            targets = [statement.target]
        for target in targets:
            names |= {
                n.id for n in ast.walk(target) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
            }
    return names


def _write_values(text: str, tree: ast.Module, values: dict[str, Any]) -> str:
    """`text` with the right-hand sides of the named assignments replaced; other lines keep their numbers."""
    spans = []
    for statement in _statements(tree.body):
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, node = statement.targets[0], statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            target, node = statement.target, statement.value
        else:
            continue
        if isinstance(target, ast.Name) and target.id in values:
            spans.append((target, node, statement, values[target.id]))
    lines = text.encode().splitlines(keepends=True)  # ast counts columns in UTF-8 bytes
    for target, node, statement, value in reversed(spans):
        first, last = statement.lineno - 1, node.end_lineno - 1
        tail = lines[statement.end_lineno - 1][statement.end_col_offset :]
        head = lines[first][: target.end_col_offset]
        new = head + b" = " + repr(value).encode() + tail
        lines[first : max(last, statement.end_lineno - 1) + 1] = [new] + [b"\n"] * (
            statement.end_lineno - 1 - first
        )
    done = {target.id for target, *_ in spans}
    if missing := values.keys() - done:
        raise ConfigError(
            translate(
                "{name} is computed in a way an option cannot replace; edit the file",
                name=sorted(missing)[0],
            )
        )
    return b"".join(lines).decode()


def _run(text: str, filename: str) -> dict[str, Any]:
    """The names that the file defines; imports are `Ref`s, except relative ones and the standard library."""
    namespace: dict[str, Any] = {"__name__": Path(filename).stem, "__file__": filename}
    real_import = builtins.__import__

    def name_import(
        name: str, globals: Any = None, locals: Any = None, fromlist: Sequence[str] = (), level: int = 0
    ) -> Any:
        origin = f"{filename}:{sys._getframe(1).f_lineno}"
        if level:
            return _run_relative(name, level, fromlist, filename, namespace, origin)
        if name in ("xtuner.config", "mmengine.config") and "read_base" in (fromlist or ()):
            return types.SimpleNamespace(read_base=read_base)
        if name.partition(".")[0] in sys.stdlib_module_names:
            return real_import(name, globals, locals, fromlist, level)
        if "*" in (fromlist or ()):
            raise ConfigError(
                translate(
                    "{origin}: write the names instead of 'from {name} import *'", origin=origin, name=name
                )
            )
        return Ref(name if fromlist else name.partition(".")[0], origin)

    _relative_imports(text, _parse(text, filename), filename)  # for its errors
    scope = dict(vars(builtins), __import__=name_import)
    namespace["__builtins__"] = scope
    try:
        exec(compile(text, filename, "exec"), namespace)
    except ConfigError:
        raise
    except Exception as error:
        line = _line_in(error, filename)
        hint = _cure(error.name, namespace) if isinstance(error, NameError) and error.name else ""
        raise ConfigError(f"{filename}{line}: {type(error).__name__}: {error}.{hint}") from error
    scope["__import__"] = real_import  # functions of the file import real modules
    return namespace


def _cure(name: str, namespace: dict[str, Any]) -> str:
    """What to write for a name that is not defined: the line that imports it, or a similar name."""
    if line := import_line(name):
        return translate(" Add the line: {line}", line=line)
    return did_you_mean(name, namespace)


def _line_in(error: BaseException, filename: str) -> str:
    line, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == filename:
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line


def _relative_file(name: str, level: int, filename: str) -> Path:
    folder = Path(filename).resolve().parent
    for _ in range(level - 1):
        folder = folder.parent
    return folder.joinpath(*name.split(".")).with_suffix(".py")


def _run_relative(
    name: str, level: int, fromlist: Sequence[str], filename: str, namespace: dict[str, Any], origin: str
) -> types.ModuleType:
    """The module of a relative import: another config file, run the same way."""
    path = _relative_file(name, level, filename)
    if not path.is_file():
        raise NotFoundError(translate("{origin}: there is no file {path!r}", origin=origin, path=str(path)))
    found = _run(_read(path), str(path))
    module = types.ModuleType(path.stem)
    own = {k: v for k, v in found.items() if not k.startswith("__")}
    module.__dict__.update(own)
    based = namespace.setdefault("__based__", set())
    based |= set(found.get("__based__", ())) | (set(own) if "*" in fromlist else set(fromlist))
    return module


def _is_value(name: str, value: Any) -> bool:
    return not (name.startswith("_") or isinstance(value, (types.ModuleType, types.FunctionType, type)))


def _as_config(value: Any, seen: dict[int, Any]) -> Any:
    """`value` with every dict as a `Config`; the same object stays the same object."""
    if id(value) in seen:
        return seen[id(value)][0]
    if isinstance(value, dict):
        config = Config()
        seen[id(value)] = (config, value)  # keeps `value` alive, so that its id stays unique
        config.update({k: _as_config(v, seen) for k, v in value.items()})
        return config
    if isinstance(value, list):
        items: list[Any] = []
        seen[id(value)] = (items, value)
        items.extend(_as_config(v, seen) for v in value)
        return items
    if type(value) is tuple:
        return tuple(_as_config(v, seen) for v in value)
    return value


def _patch(config: Config, key: str, value: Any) -> str:
    """Set the dotted `key`; returns an equivalent line of Python."""
    *parents, last = key.split(".")
    if not parents:
        if key not in RUN_KEYS:
            raise ConfigError(
                translate(
                    "--cfg-options {key}: no such name.{hint}",
                    key=key,
                    hint=did_you_mean(key, {*config, *RUN_KEYS}),
                )
            )
        config[key] = value
        return f"{key} = {value!r}"
    if len(parents) == 1 and parents[0] in RUN_KEYS and config.get(parents[0]) is None:
        config[parents[0]] = Config({last: value})
        return f"{parents[0]} = {dict(config[parents[0]])!r}"
    here: Any = config
    for i, part in enumerate(parents):
        here = _step(here, part, ".".join(parents[:i]), key)
    if not isinstance(here, (dict, list)):
        raise ConfigError(
            translate(
                "--cfg-options {key}: {place} is {here!r}, not a dict or list",
                key=key,
                place=".".join(parents),
                here=here,
            )
        )
    index: Any = last
    if isinstance(here, list):
        _step(here, last, ".".join(parents), key)
        index = int(last)
    here[index] = _as_config(value, {})
    steps = "".join(f"[{int(p)}]" if p.isdigit() else f"[{p!r}]" for p in [*parents[1:], last])
    return f"{parents[0]}{steps} = {value!r}"


def _step(here: Any, part: str, path: str, key: str) -> Any:
    if isinstance(here, dict) and part in here:
        return here[part]
    if isinstance(here, list) and part.isdigit() and int(part) < len(here):
        return here[int(part)]
    where = path or translate("the config")
    if isinstance(here, list):
        raise ConfigError(
            translate(
                "--cfg-options {key}: {where} has {count} items, counted from 0; {part!r} is none",
                key=key,
                where=where,
                count=len(here),
                part=part,
            )
        )
    hint = did_you_mean(part, here) if isinstance(here, dict) else ""
    raise ConfigError(
        translate(
            "--cfg-options {key}: {where} has no {part!r}.{hint}", key=key, where=where, part=part, hint=hint
        )
    )


def _flatten(text: str, filename: str) -> str:
    """`text` with relative imports replaced by the imported files, so that it loads from any folder."""
    # Not splitlines, which, unlike Python, also splits at other characters inside a text.
    lines = text.removesuffix("\n").split("\n")
    for statement, imports in reversed(_relative_imports(text, ast.parse(text), filename)):
        pieces = []
        for s in imports:
            path = _relative_file(s.module or "", s.level, filename)
            pieces.append(_flatten(_read(path), str(path)))
            pieces += [f"{a.asname} = {a.name}\n" for a in s.names if a.asname not in (None, a.name)]
        lines[statement.lineno - 1 : statement.end_lineno] = "\n".join(pieces).removesuffix("\n").split("\n")
    return "\n".join(lines) + "\n"


def parse_option(text: str) -> tuple[str, Any]:
    """`"a.b=1e-4"` -> `("a.b", 0.0001)`."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(translate("--cfg-options {text!r}: write KEY=VALUE", text=text))
    return key, parse_value(value)


def parse_value(text: str) -> Any:
    """The value of a command-line word: a number, true/false, None, [..], (..), `a,b` (a list), else text.

    `0.9,0.95` is a list, as `a,b`; `(0.9,0.95)` is a tuple. A comma before a space is punctuation:
    `be kind, be brief` is text.
    """
    word = text.strip()
    constants = {"true": True, "false": False, "none": None}
    if word.lower() in constants:
        return constants[word.lower()]
    with contextlib.suppress(ValueError, SyntaxError):
        value = ast.literal_eval(word)
        if not isinstance(value, tuple):
            return value
        items = ast.literal_eval(f"[{word}]")
        return value if items == [value] else items
    if word[:1] + word[-1:] in ("[]", "()"):
        items = [parse_value(w) for w in word[1:-1].split(",") if w.strip()]
        return items if word[0] == "[" else tuple(items)
    if "," in word and ", " not in word and not word.startswith(("{", "'", '"')):
        return [parse_value(w) for w in word.split(",")]
    return text


def name_of(value: Any) -> str:
    """The name of `value` in messages: a dotted name or a type's name."""
    if isinstance(value, Ref):
        return path_of(value)
    return getattr(value, "__qualname__", None) or str(value)
