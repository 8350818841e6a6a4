"""From a recipe to the text of its config file.

    >>> text = render("internlm2_chat_1_8b_qlora_alpaca_e3", alpaca_en_path="my.json", max_epochs=1)

The text has the five parts and variable names that users know. Every variable of part 1 can be given
here; what depends on it is written as an expression of it, so later edits carry through as well.
"""

from __future__ import annotations

from typing import Any

from xtuner.errors import ConfigError
from xtuner.recipes.catalogue import Recipe, find
from xtuner.recipes.page import Page
from xtuner.recipes.parts import (
    write_data,
    write_model,
    write_runtime,
    write_schedule,
    write_settings,
    write_trainer,
)
from xtuner.recipes.plan import Plan
from xtuner.recipes.wording import LANGUAGES


def render(recipe_or_name: Recipe | str, lang: str = "en", **settings: Any) -> str:
    """The config file of a recipe, with comments in `lang` and `settings` in place of the usual ones.

    `prompt_template` takes the bare name of a template. A setting that the recipe does not have is a
    ConfigError that names the nearest one.
    """
    if lang not in LANGUAGES:
        raise ConfigError(f"lang is {lang!r}, but comments exist in {' and '.join(LANGUAGES)} only.")
    recipe = find(recipe_or_name) if isinstance(recipe_or_name, str) else recipe_or_name
    plan = Plan(recipe)
    plan.override(settings)
    page = Page()
    write_settings(page, plan, lang)
    if plan.options["training_args"]:
        write_trainer(page, plan, lang)
    else:
        write_model(page, plan)
        write_data(page, plan)
        write_schedule(page, plan, lang)
        write_runtime(page, plan, lang)
    return page.text()


def settings_of(recipe_or_name: Recipe | str) -> list[str]:
    """The settings that `render` accepts for this recipe, in the order of part 1."""
    recipe = find(recipe_or_name) if isinstance(recipe_or_name, str) else recipe_or_name
    return Plan(recipe).names()
