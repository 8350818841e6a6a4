"""Configs by name: what a command or a notebook asks for, with settings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtuner.check.rewards import wrong_reward
from xtuner.config import load_config, parse_config
from xtuner.config.edit import EditableConfig, with_changes
from xtuner.config.load import Config
from xtuner.errors import ConfigError, did_you_mean
from xtuner.estimate.machine import find_machine
from xtuner.estimate.memory import size_text
from xtuner.language import language, translate
from xtuner.log import start_console
from xtuner.model_address import local_model, use_local_models
from xtuner.proposal.methods import METHODS
from xtuner.proposal.methods import rewards as learns_from_rewards
from xtuner.recipes.catalogue import find
from xtuner.recipes.render import render, settings_of
from xtuner.rewards.compare import BY_NAME

if TYPE_CHECKING:
    from xtuner.estimate.machine import Machine
    from xtuner.proposal.choices import Proposal
    from xtuner.proposal.data import DataFacts
    from xtuner.proposal.model import ModelFacts

# The name of a proposed config, and so of its work dir, as of `xtuner new-cfg`.
NEW = "my_config.py"


def new_config(
    name: str | Path | None = None,
    *,
    model: str | Path | None = None,
    data: str | Path | None = None,
    method: str | None = None,
    template: str | None = None,
    trust_remote_code: bool = False,
    forgetting: bool = False,
    reward: str | Sequence[str] = (),
    lang: str | None = None,
    **settings: Any,
) -> EditableConfig:
    """A config to look at, change and train: `new_config("internlm2_chat_1_8b_qlora_alpaca_e3", lr=1e-4)`.

    `name`: a built-in config (`xtuner list-cfg`), as `xtuner copy-cfg` writes it with the same `model`,
    `data` and `template`; or a file. Without a name: a config for `model` and `data`, as `xtuner new-cfg`
    writes it with the same `method`, `template`, `trust_remote_code` and `forgetting`, and with `reward`
    as `--reward`. `settings`: names of the config (`max_epochs=1`) or paths in it
    (`**{"train_dataloader.num_workers": 2}`). `lang`: language of the comments, "en" or "zh".

    Values are attributes and may be set: what is computed from them follows. `config.text` is the file.
    Raises ConfigError, NotFoundError, ModelError or DataError with the line that the command prints.
    """
    lang = lang or language()
    model, data = _path(model), _path(data)
    if name is None:
        if model is None or data is None:
            raise ConfigError(translate("new_config needs the name of a config, or model and data"))
        proposed = propose(
            model,
            data,
            method,
            template,
            lang,
            trust_remote_code=trust_remote_code,
            forgetting=forgetting,
            reward=reward,
        )
        return EditableConfig(parse_config(proposed.text, NEW, settings))
    given: dict[str, Any] = {"method": method, "trust_remote_code": trust_remote_code}
    given |= {"forgetting": forgetting, "reward": reward}
    if is_file(name):
        given |= {"model": model, "data": data, "template": template}
    if wrong := [key for key, value in given.items() if value]:
        what = "{key} is for a config that is not there yet: set what it means in {name} itself"
        raise ConfigError(translate(what, key=wrong[0], name=name))
    if is_file(name):
        return EditableConfig(load_config(name, settings))
    known = settings_of(str(name))
    of_recipe = {key: value for key, value in settings.items() if key in known}
    text = render(str(name), lang, **recipe_settings(str(name), model, data, template, of_recipe))
    rest = {key: value for key, value in settings.items() if key not in known}
    return EditableConfig(parse_config(text, f"{name}.py", rest))


def _path(given: str | Path | None) -> str | None:
    return None if given is None else os.fspath(given)


def is_file(name: str | Path) -> bool:
    """Whether `name` is a file, not the name of a built-in config."""
    return str(name).endswith(".py") or Path(name).is_file()


def read_config(config: str | Path | Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> Config:
    """The config of a file, of a built-in name, or of a program, with `settings` applied.

    Models are folders of this machine or names on a hub; its text keeps their addresses.
    """
    found = _read_config(config, dict(settings or {}))
    use_local_models(found)
    return found


def _read_config(config: str | Path | Mapping[str, Any], options: dict[str, Any]) -> Config:
    if isinstance(config, Config):
        if not hasattr(config, "text"):
            raise ConfigError(translate("this is a part of a config: give the whole one"))
        whole = with_changes(parse_config(config.text, config.filename), config)
        return parse_config(whole.text, whole.filename, options) if options else whole
    if not isinstance(config, (str, Path)):
        what = "{value} is no config: give a file, a built-in name, or what new_config returns"
        raise ConfigError(translate(what, value=repr(config)[:80]))
    if is_file(config):
        return load_config(config, options)
    recipe = find(str(config))
    return parse_config(render(recipe), f"{config}.py", options)


def recipe_settings(
    name: str, model: str | None, data: str | None, template: str | None, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of the built-in config `name`, by the names of its part 1."""
    found = dict(settings)
    if template is not None:
        found["prompt_template"] = template
    if model is not None:
        found[find(name).method.path_setting] = model
    if data is not None:
        places = find(name).dataset.path_settings
        if len(places) != 1:
            what = "{name} names its data inside part 3, so --data is not enough."
            if places:
                what = "{name} reads {count} sources, so --data is not enough.{hint}"
            hint = "".join(f" --set {place}=FILE" for place in places)
            raise ConfigError(translate(what, name=name, count=len(places), hint=hint))
        found[places[0]] = data
    return found


@dataclass(frozen=True)
class Proposed:
    """The text of a config for a model and data, and lines that say what was found and chosen."""

    text: str
    lines: Sequence[str]


def propose(
    model_path: str,
    data_path: str,
    method: str | None = None,
    template: str | None = None,
    lang: str = "en",
    *,
    name: str = NEW,
    trust_remote_code: bool = False,
    forgetting: bool = False,
    reward: str | Sequence[str] = (),
) -> Proposed:
    """A config for a model folder and a data file, with the reasons of its settings."""
    if method is not None and method not in METHODS:
        what = "there is no method {method!r}.{hint} Methods: {methods}"
        hint, methods = did_you_mean(method, METHODS), ", ".join(METHODS)
        raise ConfigError(translate(what, method=method, hint=hint, methods=methods))
    rewards = [reward] if isinstance(reward, str) else list(reward)
    _check_rewards(method, rewards)
    # The folder is checked first, because the tokenizer needs torch, which is slow to import.
    from xtuner.check.files import check_data_path
    from xtuner.proposal.model import look_at_model

    start_console("WARNING")
    folder = local_model(model_path)
    model = look_at_model(folder, template, method)
    check_data_path(data_path)
    from xtuner.model.tokenizer import load_tokenizer
    from xtuner.proposal.choices import choose
    from xtuner.proposal.config import write_config
    from xtuner.proposal.pairs import look_at

    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    data = look_at(data_path, tokenizer, model.template, method, folder if model.sees else None)
    machine = find_machine()
    if data.is_prompts:
        from xtuner.proposal.prompts import choose_rollouts

        proposal = choose_rollouts(model, data, machine, method, rewards)
    else:
        proposal = choose(model, data, machine, method)
    named = replace(model, path=model_path)  # the config keeps an address
    text = write_config(Path(name).stem, named, data, proposal, lang, forgetting)
    return Proposed(text, [*_facts(named, data), *_reasons(proposal, machine)])


def _facts(model: ModelFacts, data: DataFacts) -> list[str]:
    what = "model    {path}: family {family}, {context} positions"
    if model.row:
        what = "model    {path}: family {family}, as {name}, {context} positions"
    name = model.row.name if model.row else ""
    rows = "data     {path}: {rows} rows, about {tokens:.0f} tokens"
    return [
        translate(what, path=model.path, family=model.family, name=name, context=model.context),
        translate(rows, path=data.path, rows=data.num_rows, tokens=data.num_tokens),
    ]


def _check_rewards(method: str | None, given: Sequence[str]) -> None:
    """ConfigError for rewards that a method does not need, lacks, or that are wrong."""
    if not learns_from_rewards(method):
        if given:
            raise ConfigError(translate("--reward is for --method grpo: add it, or leave out --reward"))
        return
    if not given:
        what = "--method {method} needs a --reward: FILE.py:FUNCTION, or one of {names}"
        raise ConfigError(translate(what, method=method, names=", ".join(BY_NAME)))
    if wrong := [message for name in given if (message := wrong_reward(name))]:
        raise ConfigError(*wrong)


def _reasons(proposal: Proposal, machine: Machine) -> list[str]:
    lines = [f"  {choice.name} = {choice.value}  ({choice.why})" for choice in proposal.choices]
    if proposal.memory_bytes is None:
        unknown = "memory   unknown: the family's config.json does not have the usual sizes"
        return [*lines, translate(unknown)]
    what = "memory   about {need} ({free} free on {machine})"
    if proposal.memory_bytes > machine.free_bytes:
        what = "memory   about {need} ({free} free on {machine}); this will not fit"
    need, free = size_text(proposal.memory_bytes), size_text(machine.free_bytes)
    return [*lines, translate(what, need=need, free=free, machine=machine.name)]
