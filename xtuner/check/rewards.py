"""Check the rewards of a config, and what does not go with sampling answers.

rollouts.rewards = ["numerc", "my.py:polite"]   ->  no such reward; my.py has no function polite, or one that
                                                    takes other arguments than (question, answer, row)

Files of the user's are parsed, not run.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from xtuner.config.ref import as_ref, path_of
from xtuner.config.schema import Fault
from xtuner.errors import did_you_mean
from xtuner.language import translate

# Those of xtuner.rewards.compare, which this layer does not import.
NAMES = ("exact", "contains", "numeric", "boxed")
METHOD = "GRPO"


def reward_faults(config: Mapping[str, Any]) -> list[Fault]:
    """Faults of `rollouts`, and of what does not go with it."""
    model, rollouts = config.get("model"), config.get("rollouts")
    kind = _word(model.get("type")) if isinstance(model, Mapping) else ""
    if rollouts is None:
        return [_missing(kind)] if kind == METHOD else []
    if not isinstance(rollouts, Mapping):
        return []  # a value of another kind is found by the schema
    found = []
    for name, why in _not_together(config):
        what = "rollouts does not go with {name}, because {why}: leave it out"
        found.append(Fault(name, translate(what, name=name, why=why)))
    given = rollouts.get("rewards")
    if not given:
        what = "{option} is empty: name a function, such as rewards=['my.py:reward'], or one of {names}"
        message = translate(what, option="rollouts.rewards", names=", ".join(NAMES))
        return [*found, Fault("rollouts.rewards", message)]
    rewards = list(given) if isinstance(given, (list, tuple)) else [given]
    weights = rollouts.get("weights")
    if isinstance(weights, (list, tuple)) and len(weights) != len(rewards):
        what = "rollouts.weights has {weights} numbers for {rewards} rewards: give one for each"
        message = translate(what, weights=len(weights), rewards=len(rewards))
        found.append(Fault("rollouts.weights", message))
    wrong = [said for reward in rewards if (said := wrong_reward(reward))]
    return [*found, *(Fault("rollouts.rewards", said) for said in wrong)]


def _missing(kind: str) -> Fault:
    what = (
        "{kind} trains on answers that it samples: give the config rollouts = dict(type=Rollouts, "
        "rewards=[...]), and train_dataloader a build_prompt_dataset"
    )
    return Fault("rollouts", translate(what, kind=kind))


def _not_together(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The settings that do not go with `rollouts`, and why."""
    whole = translate("each process samples with the whole model")
    for name in ("fsdp", "deepspeed"):
        if config.get(name):
            yield name, whole
    if (config.get("sequence_parallel_size") or 1) != 1:
        yield "sequence_parallel_size", translate("each process samples whole answers")
    loop = config.get("train_cfg")
    if isinstance(loop, Mapping) and loop.get("spike_ratio"):
        yield "train_cfg.spike_ratio", translate("the loss of an update is no measure")
    for name in ("val_evaluator", "val_cfg"):
        if config.get(name):
            yield name, translate("validation measures the rewards")


def wrong_reward(reward: Any) -> str | None:
    """What is wrong with a reward of the config; None if nothing is, or if it cannot be known here."""
    if isinstance(reward, str):
        return _wrong_name(reward)
    if inspect.isfunction(reward):
        return _wrong_arguments(reward.__name__, inspect.signature(reward).bind)
    return None


def _wrong_name(name: str) -> str | None:
    module, sign, function = name.rpartition(":")
    if not sign:
        if name in NAMES:
            return None
        what = "{option} {name}: there is no such reward.{hint} Rewards: {names}, or FILE.py:FUNCTION"
        hint, names = did_you_mean(name, NAMES), ", ".join(NAMES)
        return translate(what, option="rollouts.rewards", name=name, hint=hint, names=names)
    if not module.endswith(".py"):
        return None  # importing a module may have side effects
    try:
        tree = ast.parse(Path(module).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        what = "{option} {name} cannot be loaded: {error}"
        return translate(what, option="rollouts.rewards", name=name, error=error)
    defined = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    named = next((node for node in defined if node.name == function), None)
    if named is not None:
        return _wrong_arguments(name, _signature(named.args).bind)
    if function in {name for node in tree.body for name in _assigned(node)}:
        return None
    what = "{option} {name}: there is no function {function}"
    return translate(what, option="rollouts.rewards", name=name, function=function)


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


def _wrong_arguments(name: str, bind: Callable[..., Any]) -> str | None:
    try:
        bind("question", "answer", {})
    except TypeError:
        what = "{option} {name}: the function takes {signature}, but is called with (question, answer, row)"
        signature = bind.__self__  # type: ignore[attr-defined]
        return translate(what, option="rollouts.rewards", name=name, signature=signature)
    return None


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
