"""Check the rewards of a config, and what does not go with sampling answers.

rollouts.rewards = ["numerc", "my.py:polite"]   ->  no such reward; my.py has no function polite, or one that
                                                    takes other arguments than (question, answer, row)

Files of the user's are parsed, not run.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xtuner.config.ref import as_ref, path_of
from xtuner.config.schema import Fault
from xtuner.rewards import faults
from xtuner.rewards.compare import BY_NAME

METHOD = "GRPO"


def reward_faults(config: Mapping[str, Any]) -> list[Fault]:
    """Faults of `rollouts`, and of what does not go with it."""
    model, rollouts = config.get("model"), config.get("rollouts")
    kind = _word(model.get("type")) if isinstance(model, Mapping) else ""
    if rollouts is None:
        return [Fault("rollouts", faults.no_rollouts(kind))] if kind == METHOD else []
    if not isinstance(rollouts, Mapping):
        return []  # a value of another kind is found by the schema
    found = [Fault(name, faults.not_together(name)) for name in _not_together(config)]
    given = rollouts.get("rewards")
    if not given:
        return [*found, Fault(faults.OPTION, faults.no_rewards())]
    rewards = list(given) if isinstance(given, (list, tuple)) else [given]
    weights = rollouts.get("weights")
    if isinstance(weights, (list, tuple)) and len(weights) != len(rewards):
        found.append(Fault("rollouts.weights", faults.other_count(len(weights), len(rewards))))
    wrong = [said for reward in rewards if (said := wrong_reward(reward))]
    return [*found, *(Fault(faults.OPTION, said) for said in wrong)]


def _not_together(config: Mapping[str, Any]) -> Iterator[str]:
    """The settings of the config that do not go with `rollouts`."""
    for name in faults.NOT_TOGETHER:
        part, _, key = name.rpartition(".")
        where = config.get(part) if part else config
        value = where.get(key) if isinstance(where, Mapping) else None
        if value and not (name == "sequence_parallel_size" and value == 1):
            yield name


def wrong_reward(reward: Any) -> str | None:
    """What is wrong with a reward of the config; None if nothing is, or if it cannot be known here."""
    if isinstance(reward, str):
        return _wrong_name(reward)
    if inspect.isfunction(reward):
        return faults.wrong_arguments(reward.__name__, inspect.signature(reward))
    return None


def _wrong_name(name: str) -> str | None:
    module, sign, function = name.rpartition(":")
    if not sign:
        return None if name in BY_NAME else faults.no_such_name(name)
    if not module.endswith(".py"):
        return None  # importing a module may have side effects
    try:
        tree = ast.parse(Path(module).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        return faults.not_loaded(name, faults.OPTION, error)
    defined = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    named = next((node for node in defined if node.name == function), None)
    if named is not None:
        return faults.wrong_arguments(name, _signature(named.args))
    if function in {name for node in tree.body for name in _assigned(node)}:
        return None
    return faults.no_function(name, faults.OPTION)


def _signature(given: ast.arguments) -> inspect.Signature:
    """The signature of a parsed function; what the defaults are does not matter."""
    kinds = inspect.Parameter
    positional = [*given.posonlyargs, *given.args]
    no_default = len(positional) - len(given.defaults)
    found = [
        kinds(a.arg, kinds.POSITIONAL_OR_KEYWORD, default=kinds.empty if number < no_default else None)
        for number, a in enumerate(positional)
    ]
    found += [kinds(given.vararg.arg, kinds.VAR_POSITIONAL)] if given.vararg else []
    found += [
        kinds(a.arg, kinds.KEYWORD_ONLY, default=kinds.empty if default is None else None)
        for a, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)
    ]
    found += [kinds(given.kwarg.arg, kinds.VAR_KEYWORD)] if given.kwarg else []
    return inspect.Signature(found)


def _assigned(node: ast.stmt) -> Iterator[str]:
    """The names that a statement of a module gives: by assignment, import or class."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (alias.asname or alias.name for alias in node.names)
    elif isinstance(node, ast.ClassDef):
        yield node.name
    else:
        yield from (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def _word(value: Any) -> str:
    ref = as_ref(value)
    text = path_of(ref) if ref is not None else getattr(value, "__name__", str(value or ""))
    return text.rpartition(".")[2]
