"""Check that the special tokens of the prompt template are in the tokenizer, by its small files.

template    <|im_start|>user\\n{input}<|im_end|>      marks <|im_start|>, <|im_end|>
tokenizer   special tokens <s> </s> <|eot_id|>        neither is a token: each is split into many, as any text
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from xtuner.config.folders import called, walk
from xtuner.config.ref import as_ref
from xtuner.config.schema import Fault, data_parts
from xtuner.errors import ConfigError, ModelError
from xtuner.language import translate
from xtuner.model_folder import read_tokenizer
from xtuner.utils import PROMPT_TEMPLATE
from xtuner.utils.templates import is_tokenizers_own

_MARK = re.compile(r"<\|[^|<>\s]+\|>|<｜[^｜<>\s]+｜>|<(?:start|end)_of_turn>")
_PARTS = ("SYSTEM", "INSTRUCTION", "SUFFIX")


def template_faults(config: Mapping[str, Any]) -> tuple[list[Fault], list[Fault]]:
    """Errors and warnings about the templates of the data and of the sampling hook."""
    errors: list[Fault] = []
    used = _found(_data_templates(config), errors)
    asked = _found(_hook_templates(config), errors)
    warnings = [
        Fault(
            path,
            translate(
                "{path} is another template than the data has: the samples will not show what is learnt",
                path=path,
            ),
        )
        for path, asking in asked
        if used and all(asking != template for _, template in used)
    ]
    folder = _tokenizer_folder(config)
    if folder is None or not used:
        return errors, warnings
    try:
        tokenizer = read_tokenizer(folder)
    except ModelError as error:
        return [*errors, Fault("tokenizer", f"tokenizer: {error}")], warnings
    for path, template in used:
        if is_tokenizers_own(template) and not tokenizer.get("chat_template"):
            message = translate(
                "{path} is PROMPT_TEMPLATE.auto, the chat_template of the tokenizer, and "
                "{folder} has none: name a template, such as PROMPT_TEMPLATE.default",
                path=path,
                folder=folder,
            )
            errors.append(Fault(path, message))
        elif message := _disagreement(template, tokenizer, folder):
            warnings.append(Fault(path, f"{path}: {message}"))
    return errors, warnings


def marks_of(template: Mapping[str, Any]) -> set[str]:
    """The marks of turns in a template that should be single tokens."""
    return {mark for part in _PARTS for mark in _MARK.findall(str(template.get(part, "")))}


def fitting_templates(tokens: set[str]) -> list[str]:
    """Names of the templates whose marks (at least one) are all tokens."""
    return [name for name, t in PROMPT_TEMPLATE.items() if (marks := marks_of(t)) and marks <= tokens]


def _disagreement(template: Mapping[str, Any], tokenizer: Mapping[str, Any], folder: Path) -> str:
    # The marks of the default template are plain words, for models without special tokens.
    if "tokens" not in tokenizer or template == PROMPT_TEMPLATE["default"]:
        return ""
    unknown = sorted(marks_of(template) - tokenizer["tokens"])
    if not unknown:
        return ""
    cures = [f"PROMPT_TEMPLATE.{name}" for name in fitting_templates(tokenizer["tokens"])[:2]]
    if tokenizer.get("chat_template"):
        cures.insert(0, translate("PROMPT_TEMPLATE.auto (the tokenizer's own)"))
    cure = (
        translate("use {names}", names=translate(" or ").join(cures))
        if cures
        else translate("use PROMPT_TEMPLATE.default, whose marks are plain words")
    )
    return translate(
        "the tokenizer of {folder} has no token {mark!r}, so the template's marks fall apart; {cure}",
        folder=folder,
        mark=unknown[0],
        cure=cure,
    )


def _tokenizer_folder(config: Mapping[str, Any]) -> Path | None:
    tokenizer = config.get("tokenizer")
    if not isinstance(tokenizer, Mapping):
        return None
    path = tokenizer.get("pretrained_model_name_or_path")
    return Path(path) if isinstance(path, str) and Path(path).is_dir() else None


def _data_templates(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Path and value of each template of the data."""
    name = data_parts(config)[0]
    for path, value in walk(config.get(name), name):
        if called(value) == "template_map_fn_factory":
            yield f"{path}.template", value.get("template")


def _hook_templates(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Path and value of each template of the hooks that sample answers."""
    hooks = config.get("custom_hooks")
    for number, hook in enumerate(hooks if isinstance(hooks, list) else []):
        if isinstance(hook, Mapping):
            yield f"custom_hooks.{number}.prompt_template", hook.get("prompt_template")


def _found(named: Iterable[tuple[str, Any]], errors: list[Fault]) -> list[tuple[str, Mapping[str, Any]]]:
    """The templates, each once, with their paths; unknown names are added to `errors`."""
    found: dict[int, tuple[str, Mapping[str, Any]]] = {}
    for path, value in named:
        try:
            template = _resolved(value)
        except ConfigError as error:
            errors.append(Fault(path, f"{path}: {error}"))
            continue
        if template is not None:
            found.setdefault(id(template), (path, template))
    return list(found.values())


def _resolved(value: Any) -> Mapping[str, Any] | None:
    """The template of a value; None for an unknown dotted name, which `names.py` reports."""
    ref = as_ref(value)
    if ref is not None:
        try:
            value = ref.resolve()
        except ConfigError:
            return None
    if isinstance(value, str):
        return PROMPT_TEMPLATE[value]
    return value if isinstance(value, Mapping) else None
