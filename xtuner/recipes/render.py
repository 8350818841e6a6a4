"""Render a recipe as the text of a config file.

    >>> text = render("internlm2_chat_1_8b_qlora_alpaca_e3", alpaca_en_path="my.json", max_epochs=1)

The text has the five parts and variable names that users know. Every variable of part 1 can be given
here; values that depend on it are written as expressions of it, so later edits apply to them too.
"""

from __future__ import annotations

from typing import Any

from xtuner.errors import ConfigError
from xtuner.language import LANGUAGES, translate
from xtuner.recipes.catalogue import Recipe, find
from xtuner.recipes.deepspeed_files import deepspeed_file, deepspeed_names
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
from xtuner.recipes.special import SCRIPTS


def render(recipe_or_name: Recipe | str, lang: str = "en", **settings: Any) -> str:
    """The config file of a recipe, with comments in `lang` and `settings` instead of the defaults.

    `prompt_template` takes the bare name of a template. A setting that the recipe does not have is a
    ConfigError that names the nearest one. For a DeepSpeed name the text is its JSON.
    """
    if lang not in LANGUAGES:
        raise ConfigError(
            translate(
                "lang is {lang!r}, but comments exist in {names} only.",
                lang=lang,
                names=" and ".join(LANGUAGES),
            )
        )
    if isinstance(recipe_or_name, str) and recipe_or_name in {*deepspeed_names(), *SCRIPTS}:
        return _render_other(recipe_or_name, settings)
    plan = Plan(_recipe(recipe_or_name))
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


def settings_of(recipe_or_name: Recipe | str) -> dict[str, Any]:
    """The settings that `render` accepts for this recipe, in the order of part 1, with their values."""
    plan = Plan(_recipe(recipe_or_name))
    values = {name: value for group in plan.settings.values() for name, value in group.items()}
    return {name: values[name] for name in plan.names()}


def _recipe(recipe_or_name: Recipe | str) -> Recipe:
    return find(recipe_or_name) if isinstance(recipe_or_name, str) else recipe_or_name


def _render_other(name: str, settings: dict[str, Any]) -> str:
    """The JSON of a DeepSpeed setting, or a script that names its replacement."""
    if settings:
        raise ConfigError(
            translate(
                "{name} has no settings to change, but {names} was given.",
                name=name,
                names=", ".join(settings),
            )
        )
    if name in SCRIPTS:
        instead = SCRIPTS[name]
        return (
            f'"""This script was replaced by a command.\n\n    {instead}\n"""\n\nraise SystemExit(__doc__)\n'
        )
    return deepspeed_file(name).read_text(encoding="utf-8")
