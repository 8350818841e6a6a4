"""Whether the prompt template speaks the language of the tokenizer, told by the tokenizer's small files.

template    <|im_start|>user\\n{input}<|im_end|>      marks <|im_start|>, <|im_end|>
tokenizer   tokens of its own: <s> </s> <|eot_id|>    neither is a token: each is split into many, as any text
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xtuner.check.files import called, walk
from xtuner.config.ref import Ref
from xtuner.config.schema import Fault
from xtuner.errors import ConfigError, ModelError
from xtuner.model_folder import read_tokenizer
from xtuner.utils import PROMPT_TEMPLATE
from xtuner.utils.templates import is_tokenizers_own

_MARK = re.compile(r"<\|[^|<>\s]+\|>|<｜[^｜<>\s]+｜>|<(?:start|end)_of_turn>")
_PARTS = ("SYSTEM", "INSTRUCTION", "SUFFIX")


def template_faults(config: Mapping[str, Any]) -> tuple[list[Fault], list[Fault]]:
    """Errors and warnings about the templates of the data and of the sampling hook."""
    errors: list[Fault] = []
    warnings: list[Fault] = []
    folder = _tokenizer_folder(config)
    used = list(_templates(config, errors))
    if folder is not None and used:
        try:
            tokenizer = read_tokenizer(folder)
        except ModelError as error:
            return [*errors, Fault("tokenizer", f"tokenizer: {error}")], []
        for path, template in used:
            if is_tokenizers_own(template) and not tokenizer.get("chat_template"):
                message = (
                    f"{path} is PROMPT_TEMPLATE.auto, the chat_template of the tokenizer, and {folder} has "
                    "none: name a template, such as PROMPT_TEMPLATE.default"
                )
                errors.append(Fault(path, message))
            elif message := _disagreement(template, tokenizer, folder):
                warnings.append(Fault(path, f"{path}: {message}"))
    return errors, warnings + _sampling(config, used)


def marks_of(template: Mapping[str, Any]) -> set[str]:
    """The marks of turns in a template that are meant to be single tokens."""
    return {mark for part in _PARTS for mark in _MARK.findall(str(template.get(part, "")))}


def fitting_templates(tokens: set[str]) -> list[str]:
    """Names of the templates that have marks, all of which are tokens."""
    return [name for name, t in PROMPT_TEMPLATE.items() if (marks := marks_of(t)) and marks <= tokens]


def _disagreement(template: Mapping[str, Any], tokenizer: Mapping[str, Any], folder: Path) -> str:
    # The default template's marks are words like any other, for models that know none.
    if "tokens" not in tokenizer or template == PROMPT_TEMPLATE["default"]:
        return ""
    unknown = sorted(marks_of(template) - tokenizer["tokens"])
    if not unknown:
        return ""
    cures = [f"PROMPT_TEMPLATE.{name}" for name in fitting_templates(tokenizer["tokens"])[:2]]
    if tokenizer.get("chat_template"):
        cures.insert(0, "PROMPT_TEMPLATE.auto (the tokenizer's own)")
    cure = (
        f"use {' or '.join(cures)}" if cures else "use PROMPT_TEMPLATE.default, whose marks are plain words"
    )
    return (
        f"the tokenizer of {folder} has no token {unknown[0]!r}, so the template's marks fall apart; {cure}"
    )


def _tokenizer_folder(config: Mapping[str, Any]) -> Path | None:
    tokenizer = config.get("tokenizer")
    if not isinstance(tokenizer, Mapping):
        return None
    path = tokenizer.get("pretrained_model_name_or_path")
    return Path(path) if isinstance(path, str) and Path(path).is_dir() else None


def _templates(config: Mapping[str, Any], errors: list[Fault]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The templates of the data with their places; names of none go to `errors`."""
    seen: set[int] = set()
    for path, value in walk(config.get("train_dataloader"), "train_dataloader"):
        if called(value) == "template_map_fn_factory":
            named = value.get("template")
            try:
                if isinstance(named, str) and "." not in named:
                    PROMPT_TEMPLATE[named]
            except ConfigError as error:
                errors.append(Fault(f"{path}.template", f"{path}.template: {error}"))
            template = _resolved(named)
            if template is not None and id(template) not in seen:
                seen.add(id(template))
                yield f"{path}.template", template


def _resolved(value: Any) -> Mapping[str, Any] | None:
    """The template that a value stands for; None where that is told elsewhere as an error."""
    try:
        if isinstance(value, Ref):
            value = value.resolve()
        if isinstance(value, str):
            value = PROMPT_TEMPLATE.get(value.rpartition(".")[2])
    except ConfigError:
        return None
    return value if isinstance(value, Mapping) else None


def _sampling(config: Mapping[str, Any], used: list[tuple[str, Mapping[str, Any]]]) -> list[Fault]:
    """The sampling hook asks in another form than the data has."""
    hooks = config.get("custom_hooks")
    found = []
    for number, hook in enumerate(hooks if isinstance(hooks, list) else []):
        asked = _resolved(hook.get("prompt_template")) if isinstance(hook, Mapping) else None
        if asked is not None and used and all(asked != template for _, template in used):
            path = f"custom_hooks.{number}.prompt_template"
            message = (
                f"{path} is another template than the data has: the samples will not show what is learnt"
            )
            found.append(Fault(path, message))
    return found
