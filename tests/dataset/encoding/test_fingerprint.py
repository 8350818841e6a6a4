"""The key of tokens changes with everything that can change a token, and with nothing else."""

import functools
import subprocess
import sys

import pytest

from xtuner.dataset.encoding.fingerprint import (
    UnidentifiableError,
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


def test_what_cannot_be_told_is_refused():
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
