"""The key of tokens changes with everything that can change a token, and with nothing else."""

import ast
import functools
import hashlib
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import xtuner
from xtuner.dataset.encoding.fingerprint import (
    TOKENLESS,
    UnidentifiableError,
    encoder_sources,
    fingerprint_rows,
    fingerprint_tokenizer,
    fingerprint_value,
)
from xtuner.dataset.map_fns import template_map_fn_factory

MODULE = """
{constant}
def helper(text):
    return text.{method}()
def map_fn(row, suffix={default!r}):
    return [helper(row["a"]) + suffix + MARK for _ in {{"x", "y", "z"}}]
"""


def made(constant="MARK = '!'", method="strip", default=""):
    """A function as a config file defines it, with a helper and a constant beside it."""
    names = {"__name__": "config"}
    exec(MODULE.format(constant=constant, method=method, default=default), names)
    return names["map_fn"]


def test_the_same_code_has_the_same_hash():
    """Loading a config twice makes equal functions."""
    assert fingerprint_value(made()) == fingerprint_value(made())


@pytest.mark.parametrize(
    "change", [{"constant": "MARK = '?'"}, {"method": "lower"}, {"default": "x"}], ids=lambda c: next(iter(c))
)
def test_what_a_function_uses_is_part_of_it(change):
    """A changed constant, helper or default is another function."""
    assert fingerprint_value(made()) != fingerprint_value(made(**change))


def test_bound_arguments_closures_and_objects_count():
    """Templates in a factory's function, variables around it, attributes of a callable object."""
    assert fingerprint_value(template_map_fn_factory("default")) != fingerprint_value(
        template_map_fn_factory("qwen_chat")
    )
    around = lambda x: lambda row: x  # noqa: E731
    assert fingerprint_value(around(1)) == fingerprint_value(around(1)) != fingerprint_value(around(2))

    class Mapper:
        def __init__(self, x):
            self.x = x

        def __call__(self, row):
            return self.x

    assert fingerprint_value(Mapper(1)) == fingerprint_value(Mapper(1)) != fingerprint_value(Mapper(2))
    assert fingerprint_value(functools.partial(made(), suffix="a")) != fingerprint_value(made())


def test_the_hash_does_not_depend_on_the_process():
    """Sets of texts are ordered differently in each process; the hash is not."""
    code = (
        "from xtuner.dataset.encoding.fingerprint import fingerprint_value as f;"
        "print(f([lambda row: row in {'a', 'b', 'c', 'd'}, {'x', 'y', 'z'}]))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        )
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout


def test_what_cannot_be_identified_is_refused():
    """An object without a lasting description must not be mistaken for another."""
    with pytest.raises(UnidentifiableError):
        fingerprint_value([object()])


def test_rows_and_tokenizers_are_told_by_content(tokenizers):
    """Equal rows are equal data; tokenizers differ by their marks too."""
    assert (
        fingerprint_rows([{"a": "你"}]) == fingerprint_rows([{"a": "你"}]) != fingerprint_rows([{"a": "我"}])
    )
    assert fingerprint_rows([{"a": "1"}]) != fingerprint_rows([{"a": 1}])
    assert fingerprint_tokenizer(tokenizers["bos"]) != fingerprint_tokenizer(tokenizers["qwen"])


PACKAGE = Path(xtuner.__file__).parent
FILES = {
    ".".join(["xtuner", *file.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): file
    for file in PACKAGE.rglob("*.py")
}


def imported(module):
    """All names that the syntax tree of a module imports from this package."""
    names = set()
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_all_code_that_decides_tokens_is_in_the_hash():
    """Every module that the readers of data import, but those in TOKENLESS."""
    sources = encoder_sources()
    needed = set().union(*map(imported, sources)) & set(FILES)
    assert needed - set(sources) == TOKENLESS
    for name in ("utils.templates", "dataset.reading.selection", "dataset.encoding.tokenized"):
        assert sources[f"xtuner.{name}"] == FILES[f"xtuner.{name}"].read_text(encoding="utf-8")


def test_whoever_writes_tokens_is_in_the_hash():
    """The modules that open the token store."""
    store = "xtuner.dataset.items.store.open_or_write"
    assert {name for name in FILES if store in imported(name)} <= set(encoder_sources())


def test_a_tokenizers_own_code_counts(tmp_path, monkeypatch):
    """A Python file that a model folder brings along, changed without a change of its class's name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    hashes = []
    for number, text in enumerate(("return [1]", "return [2]")):
        (tmp_path / f"own_{number}.py").write_text(
            "class Own:\n"
            "    bos_token_id = eos_token_id = None\n"
            f"    def __call__(self, text):\n        {text}\n"
            "    def get_vocab(self):\n        return {'a': 0}\n"
        )
        module = importlib.import_module(f"own_{number}")
        monkeypatch.setattr(module.Own, "__module__", "own")
        monkeypatch.setitem(sys.modules, "own", module)
        hashes.append(fingerprint_tokenizer(module.Own()))
    assert hashes[0] != hashes[1]


def test_a_tokenizer_of_a_library_has_the_hash_that_it_had(tokenizers):
    """Checkpoints of streamed data hold it."""
    tokenizer = tokenizers["qwen"]
    parts = [
        f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}",
        repr([tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.split_special_tokens]),
        repr(tokenizer.chat_template),
        tokenizer.backend_tokenizer.to_str(),
    ]
    whole = b"".join(part.encode() + b"\0" for part in parts)
    assert fingerprint_tokenizer(tokenizer) == hashlib.blake2b(whole, digest_size=16).hexdigest()
