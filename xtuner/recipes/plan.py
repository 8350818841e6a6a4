"""A recipe with every change applied: its settings, and the options of the other parts.

settings   {"data": {"max_length": 2048, ...}, ...}     part 1, in groups
options    {"warmup": "linear", "log_interval": 10, ...}   parts 2 to 5
"""

from __future__ import annotations

from typing import Any

from xtuner.errors import ConfigError, did_you_mean
from xtuner.language import translate
from xtuner.recipes.catalogue import Recipe
from xtuner.recipes.methods import OPTIONS, SETTINGS
from xtuner.recipes.page import MODULE_OF, Code
from xtuner.utils import PROMPT_TEMPLATE


class Plan:
    """The settings and options that the text of a recipe is written from."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.settings = {group: dict(values) for group, values in SETTINGS.items()}
        self.options = dict(OPTIONS)
        model, data = recipe.model, recipe.dataset
        self.settings["data"] = {**data.settings, **self.settings["data"]}
        self._apply(
            {
                recipe.method.path_setting: model.path,
                "prompt_template": _template(model.template),
                "sequence_parallel_size": 1 if model.sequence_parallel else None,
            }
        )
        if "bot_name" in data.changes:
            self._apply({"bot_name": model.bot_name or data.changes["bot_name"]})
        self._apply(recipe.method.changes)
        self._apply(model.by_method.get(recipe.method.name, {}))
        self._apply({k: v for k, v in data.changes.items() if k != "bot_name"})
        self._apply(recipe.changes)

    def has(self, name: str) -> bool:
        """Whether part 1 has the variable `name`."""
        return name in self.names()

    def names(self) -> list[str]:
        """The variables of part 1."""
        return [
            name for group in self.settings.values() for name, value in group.items() if value is not None
        ]

    def override(self, changes: dict[str, Any]) -> None:
        """Replace settings by the user's; each must be a variable of part 1."""
        for name, value in changes.items():
            if not self.has(name):
                raise ConfigError(
                    translate(
                        "{recipe} has no setting {name!r}.{hint} It has {names}.",
                        recipe=self.recipe.name,
                        name=name,
                        hint=did_you_mean(name, self.names()),
                        names=", ".join(self.names()),
                    )
                )
            usual = next(group[name] for group in self.settings.values() if name in group)
            if isinstance(usual, (int, float)) and isinstance(value, str):
                kind = translate("True or False" if isinstance(usual, bool) else "a number")
                raise ConfigError(
                    translate(
                        "{name} is {value!r}, but must be {kind}, such as {usual}",
                        name=name,
                        value=value,
                        kind=kind,
                        usual=usual,
                    )
                )
            self._apply({name: _as_typed(name, value)})

    def _apply(self, changes: dict[str, Any]) -> None:
        """Overwrite settings and options; None removes a setting."""
        for name, value in changes.items():
            if name in OPTIONS:
                self.options[name] = value
                continue
            group = next((group for group in self.settings.values() if name in group), None)
            assert group is not None, f"no group of methods.SETTINGS holds {name}"
            group[name] = value


def _template(template: str | dict[str, Any]) -> Any:
    return Code(f"PROMPT_TEMPLATE.{template}") if isinstance(template, str) else template


def _as_typed(name: str, value: Any) -> Any:
    """The value as in a config: names of objects as code, one file as a list of one."""
    if value is None:
        return Code("None")
    if isinstance(value, str):
        if name == "prompt_template":
            name = value.removeprefix("PROMPT_TEMPLATE.")
            PROMPT_TEMPLATE[name]  # an unknown name raises an error with the most similar
            return _template(name)
        if (name == "SYSTEM" and value.startswith("SYSTEM_TEMPLATE.")) or (
            name == "optim_type" and value in MODULE_OF
        ):
            return Code(value)
        if name == "data_files":
            return [value]
    if name == "betas" and isinstance(value, list):
        return tuple(value)
    return value
