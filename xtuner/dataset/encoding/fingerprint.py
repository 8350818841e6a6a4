"""A hash of all inputs of tokenisation: the key of the token store.

It covers all that can change a token: the rows, the code of the map functions with the functions and
constants they use, the tokenizer, the settings, and the code of this package's encoder.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
import sys
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from xtuner.dataset.reading.files import FileRows

_ROOT = Path(__file__).parents[3]
# The modules of configs that tokenise data or read rows.
_NAMES = (
    *("head_dataset", "huggingface", "intern_repo", "moss_sft"),
    *("preference_dataset", "prompt_dataset", "reading.load"),
)
_READERS = [f"xtuner.dataset.{name}" for name in _NAMES]
# Imported there too, but without effect on tokens: logs, locks, folders, packing.
_TOKENLESS = """
    cache dataset.encoding.progress dataset.items.packed_dataset dataset.items.packing
    dataset.items.streamed dataset.items.summary errors extras hub language locks log paths
"""
TOKENLESS = {"xtuner", *(f"xtuner.{name}" for name in _TOKENLESS.split())}
_IMPORT = re.compile(r"^ *from (xtuner[\w.]*) import \(?([\w, ]*)", re.MULTILINE)

# id of each object -> its number and the object, which is kept alive so that its id stays unique.
Seen = dict[int, tuple[int, Any]]


class UnidentifiableError(Exception):
    """The content of an object is unknown, such as one of compiled code."""


def fingerprint_rows(rows: Any) -> str:
    """A hash of the content of `rows` of any kind."""
    if isinstance(rows, FileRows):
        return rows.fingerprint()
    known = getattr(rows, "_fingerprint", None)  # of datasets.Dataset: its content and its transforms
    if isinstance(known, str):
        return known
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(json.dumps(row, default=_not_json).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def fingerprint_tokenizer(tokenizer: Any) -> str:
    """A hash of the tokenizer's vocabulary, rules, special ids, chat template and, if user-defined, code."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    marks = [tokenizer.bos_token_id, tokenizer.eos_token_id, getattr(tokenizer, "split_special_tokens", None)]
    kind = f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}"
    bases = [base for base in type(tokenizer).__mro__ if _is_users(base.__module__)]
    own_code = [text for base in bases if (text := _module_text(base))]
    return _hash([kind, repr(marks), repr(getattr(tokenizer, "chat_template", None)), rules, *own_code])


def _module_text(kind: type) -> str:
    """The source of the module of a class, such as a Python file of a model folder."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return Path(file).read_text("utf-8", "replace") if file and Path(file).is_file() else ""


@functools.cache
def fingerprint_encoder() -> str:
    """A hash of this package's code between rows and tokens."""
    return _hash(itertools.chain(*sorted(encoder_sources().items())))


def encoder_sources() -> dict[str, str]:
    """Name -> source of each module that can change a token: the readers of data and all they import."""
    sources: dict[str, str] = {}
    waiting = list(_READERS)
    while waiting:
        name = waiting.pop()
        file = _module_file(name)
        if name in sources or name in TOKENLESS or file is None:
            continue
        sources[name] = file.read_text("utf-8")
        for module, names in _IMPORT.findall(sources[name]):
            # A name imported from a package may be a module.
            waiting += [module, *(f"{module}.{word}" for word in re.findall(r"\w+", names))]
    return sources


def _module_file(name: str) -> Path | None:
    path = _ROOT.joinpath(*name.split("."))
    candidates = (path.with_name(f"{path.name}.py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def fingerprint_value(value: Any) -> str:
    """A hash of plain data, or of a function: its code and all that the code refers to.

    Raises UnidentifiableError for other objects.
    """
    return _hash(_describe(value, {}))


def _hash(parts: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def _describe(value: Any, seen: Seen) -> Iterable[str]:
    if value is None or isinstance(value, (str, bytes, int, float, complex)) or value is Ellipsis:
        yield f"{type(value).__name__} {value!r}"
        return
    if id(value) in seen:
        yield f"number {seen[id(value)][0]} again"
        return
    seen[id(value)] = (len(seen), value)
    if isinstance(value, Mapping):
        yield "mapping"
        for key, item in value.items():
            yield from _describe(key, seen)
            yield from _describe(item, seen)
    elif isinstance(value, (list, tuple)):
        yield f"{type(value).__name__} {len(value)}"
        for item in value:
            yield from _describe(item, seen)
    elif isinstance(value, (set, frozenset)):
        yield from ("set", *sorted(repr(item) for item in value))
    elif isinstance(value, functools.partial):
        yield "partial"
        yield from _describe([value.func, list(value.args), value.keywords], seen)
    elif isinstance(value, types.MethodType):
        yield "method"
        yield from _describe([value.__func__, vars(value.__self__)], seen)
    elif isinstance(value, types.FunctionType):
        yield from _describe_function(value, seen)
    elif isinstance(value, types.ModuleType):
        yield f"module {value.__name__}"
    elif isinstance(value, (type, types.BuiltinFunctionType)):
        yield from _describe_class(value, seen)
    elif hasattr(value, "__dict__") and callable(value):
        yield "object"
        yield from _describe([type(value), vars(value)], seen)
    else:
        yield _known_repr(value)


def _describe_function(function: types.FunctionType, seen: Seen) -> Iterable[str]:
    yield f"function {function.__module__}.{function.__qualname__}"
    if not _is_users(function.__module__):
        return
    yield from _describe_code(function.__code__, seen)
    yield from _describe([function.__defaults__, function.__kwdefaults__], seen)
    for cell in function.__closure__ or ():
        yield from _describe(cell.cell_contents, seen)
    for name in sorted(_names(function.__code__)):
        if name in function.__globals__:
            yield f"global {name}"
            yield from _describe(function.__globals__[name], seen)


def _describe_code(code: types.CodeType, seen: Seen) -> Iterable[str]:
    yield code.co_code.hex()
    yield " ".join(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _describe_code(constant, seen)
        else:
            yield from _describe(constant, seen)


def _names(code: types.CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _describe_class(value: Any, seen: Seen) -> Iterable[str]:
    yield f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, type) and _is_users(value.__module__):
        for name, member in sorted(vars(value).items()):
            if isinstance(member, types.FunctionType):
                yield name
                yield from _describe_function(member, seen)


def _is_users(module: str | None) -> bool:
    """Whether a module is the user's; changes of this package are covered by `fingerprint_encoder`."""
    if module and module.split(".")[0] == "xtuner":
        return False
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    return file is None or ("site-packages" not in file and not file.startswith(sys.base_prefix))


def _known_repr(value: Any) -> str:
    text = repr(value)
    if " at 0x" in text:
        raise UnidentifiableError(text)
    return f"{type(value).__qualname__} {text}"


def _not_json(value: Any) -> str:
    return _known_repr(value)
