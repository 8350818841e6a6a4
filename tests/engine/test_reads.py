"""The names that the engine reads from a config are in the schema, as required or with a default."""

import ast
import re
from pathlib import Path

import pytest

import xtuner.engine
from xtuner.check.names import MADE, unmade
from xtuner.config.schema import (
    KEYS,
    REQUIRED,
    REQUIRED_BY_TRAINER,
    RUN_KEYS,
    RUNS_OWN,
    TRAINER_KEYS,
    find_faults,
)

FILES = sorted(Path(xtuner.engine.__file__).parent.rglob("*.py"))
# A dict of the config: cfg, run.cfg, run.cfg.train_dataloader, optimizer_cfg, given, ...
OF_CONFIG = re.compile(r"(\w+\.)*(cfg|\w+_cfg|given|wrapper)(\.\w+|\[\w+\])*")
# The last is of peft's config.
METHODS = {"get", "pop", "items", "keys", "text", "filename", "save_pretrained"}


def reads(function):
    """Names that are read without a default, and those that may be absent."""
    needed, known = set(), set()
    for node in ast.walk(function):
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Store):
            key, where = node.slice, node.value
            if isinstance(key, ast.Constant) and isinstance(key.value, str) and is_config(where):
                needed.add(key.value)
        elif isinstance(node, ast.Attribute) and re.fullmatch(r"(\w+\.)?cfg", ast.unparse(node.value)):
            needed |= set() if isinstance(node.ctx, ast.Store) else {node.attr} - METHODS
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            asks = node.func.attr in ("get", "pop") and is_config(node.func.value)
            if asks and isinstance(node.args[0], ast.Constant):
                is_needed = node.func.attr == "pop" and len(node.args) == 1
                (needed if is_needed else known).add(node.args[0].value)
    # Who asks first whether it is there may read it then.
    return needed - known, known


def is_config(node):
    return OF_CONFIG.fullmatch(ast.unparse(node)) is not None


FUNCTIONS = [n for f in FILES for n in ast.walk(ast.parse(f.read_text())) if isinstance(n, ast.FunctionDef)]
NEEDED, KNOWN = (set().union(*found) for found in zip(*map(reads, FUNCTIONS), strict=True))
ABSENT_IS_A_FAULT = {*REQUIRED, *(place for place, made in MADE.items() if not made.may_be_absent)}
# The type of a part is either required or has a default, see `unmade`.
PARTS = {place.rpartition(".")[2] for place in ABSENT_IS_A_FAULT} | {"type"}
PARTS |= set(REQUIRED_BY_TRAINER)


def test_names_read_without_a_default_are_required():
    assert {"train_dataloader", "optim_wrapper", "dataset"} <= NEEDED
    assert set() == NEEDED - PARTS


def test_names_that_are_read_are_keys_of_the_schema():
    """Or an argument of the type in a dict, which is checked against its signature."""
    keys = (
        {key for keys in KEYS.values() for key in keys.split()}
        | set(RUN_KEYS)
        | set(TRAINER_KEYS)
        | set(RUNS_OWN)
        | PARTS
    )
    arguments = {"lr", "weight_decay", "dtype", "shuffle", "seed", "by_epoch", "interval", "fused"}
    arguments |= {"accumulative_counts"}
    assert KNOWN - keys - arguments == set()


GOOD = {
    "model": {"type": "m.M"},
    "train_dataloader": {"dataset": {"type": "d.D"}},
    "test_dataloader": {"dataset": {"type": "d.D"}},
    "optim_wrapper": {"optimizer": {"type": "o.O"}},
    "train_cfg": {"max_epochs": 1},
}


@pytest.mark.parametrize("place", sorted(ABSENT_IS_A_FAULT))
def test_a_missing_required_name_is_an_error_before_anything_runs(place):
    """The error is one line that names it."""
    assert [*find_faults(GOOD), *unmade(GOOD)] == []
    parent, _, key = place.rpartition(".")
    without = {**GOOD, parent: {}} if parent else {k: v for k, v in GOOD.items() if k != key}
    faults = [*find_faults(without), *unmade(without)]
    assert [fault.path for fault in faults] == [place]
    assert f"has no {key}" in faults[0].message
