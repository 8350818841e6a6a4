"""All recipe names, and the rows of the tables that each is made of.

    internlm2_chat_7b_qlora_moss_sft_all_e2_gpu8
    |---- model ----| |---| |-- data ---| |variant|
                      method           epochs

A name is looked up among the listed ones first; any other combination of model, method and data of the tables
resolves too.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from xtuner.errors import NotFoundError, did_you_mean
from xtuner.language import translate
from xtuner.recipes import special
from xtuner.recipes.datasets import DATASETS, Dataset
from xtuner.recipes.deepspeed_files import deepspeed_names
from xtuner.recipes.methods import METHODS, VARIANTS, Method
from xtuner.recipes.models import MODELS, Model


@dataclass(frozen=True)
class Recipe:
    """A row of each table, and the changes of this name."""

    name: str
    model: Model
    method: Method
    dataset: Dataset
    changes: dict[str, Any] = field(default_factory=dict)


def names() -> list[str]:
    """All listed names, sorted: recipes, DeepSpeed settings, and former scripts."""
    return sorted([*_listed(), *deepspeed_names(), *special.SCRIPTS])


def match(patterns: Iterable[str]) -> list[str]:
    """The listed names that contain, or as a glob equal, every one of `patterns`, in any case."""
    found = names()
    for pattern in patterns:
        low = pattern.lower()
        is_glob = any(sign in low for sign in "*?[")
        found = [n for n in found if (fnmatch.fnmatchcase(n.lower(), low) if is_glob else low in n.lower())]
    return found


def find(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        NotFoundError: no rows of the tables make this name; the message names similar ones.
    """
    recipe = _listed().get(name) or _compose(name)
    if recipe is None and name in deepspeed_names():
        raise NotFoundError(
            translate("{name} holds DeepSpeed settings, not a training: pass it to --deepspeed.", name=name)
        )
    if recipe is None and name in special.SCRIPTS:
        raise NotFoundError(
            translate(
                "{name} was a script, not a training. Instead: {instead}",
                name=name,
                instead=special.SCRIPTS[name],
            )
        )
    if recipe is None:
        raise NotFoundError(
            translate(
                "There is no built-in config named {name!r}.{hint} `xtuner list-cfg -p WORD` shows "
                "the names that contain a word.",
                name=name,
                hint=did_you_mean(name, names()),
            )
        )
    return recipe


@functools.cache
def _listed() -> dict[str, Recipe]:
    recipes = []
    for model in MODELS.values():
        for method in ("full", "lora", "qlora"):
            for data in getattr(model, method).split():
                ending = data if re.search(r"_e\d", data) else f"{data}_e{DATASETS[data].epochs}"
                recipe = _compose(f"{model.name}_{method}_{ending}")
                assert recipe, f"{model.name} lists {data}, which no row of the tables makes"
                recipes.append(recipe)
    for name, (of, how, on, changes) in special.RECIPES.items():
        recipes.append(Recipe(name, MODELS[of], METHODS[how], DATASETS[on], changes))
    return {recipe.name: recipe for recipe in recipes}


def _compose(name: str) -> Recipe | None:
    """MODEL_METHOD_DATA_eN[_VARIANT] -> the rows of that name, or None."""
    for method in METHODS.values():
        model, _, rest = name.partition(f"_{method.name}_")
        parts = re.fullmatch(r"(.+)_e(\d+)(?:_(.+))?", rest)
        if model in MODELS and parts and parts[1] in DATASETS and (parts[3] or "") in VARIANTS:
            changes = {
                "max_epochs": int(parts[2]),
                **VARIANTS[parts[3] or ""],
                **special.CHANGES.get(name, {}),
            }
            return Recipe(name, MODELS[model], method, DATASETS[parts[1]], changes)
    return None
