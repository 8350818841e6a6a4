"""Which prompt template a dialogue uses: the one the model was trained with, unless another is asked for.

asked   trained (xtuner_config.py)   tokenizer           used
a       a, or not known              -                   a
a       b                            -                   a, with a warning
-       b                            -                   b
-       not known                    has chat_template   the tokenizer's own
-       not known                    has none            none: text goes to the model as it is
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtuner.config import Config, build, load_config
from xtuner.errors import XTunerError
from xtuner.log import logger
from xtuner.utils import PROMPT_TEMPLATE

CONFIG_NAME = "xtuner_config.py"


def choose_template(asked: str | None, folders: list[str | Path]) -> Mapping[str, Any] | None:
    """The template named `asked`, else the one that a config in `folders` was trained with, else None."""
    chosen = None if asked is None else PROMPT_TEMPLATE[asked]
    trained = trained_template(folders)
    if chosen is None and trained is not None:
        logger.info("Prompt template: %s, with which the model was trained", name_of(trained))
    if chosen is not None and trained is not None and chosen != trained:
        logger.warning(
            "the model was trained with the prompt template %s; with %s its answers may be poor",
            name_of(trained),
            asked,
        )
    return trained if chosen is None else chosen


def trained_template(folders: list[str | Path]) -> Mapping[str, Any] | None:
    """The prompt template of the first `xtuner_config.py` in `folders`; None where nothing tells."""
    for folder in folders:
        path = Path(folder) / CONFIG_NAME
        if not path.is_file():
            continue
        try:
            found = _find(load_config(path))
            value = None if found is None else build(found)
        except XTunerError as e:
            logger.warning("%s does not tell the prompt template: %s", path, e)
            continue
        if isinstance(value, str):
            value = PROMPT_TEMPLATE.get(value)
        if isinstance(value, Mapping):
            return value
    return None


def _find(config: Config) -> Any:
    """What the config gives its map function as template, as a name or a dict."""
    if config.get("prompt_template") is not None:
        return config["prompt_template"]
    loader = config.get("train_dataloader")
    waiting = [loader["dataset"]] if isinstance(loader, dict) and "dataset" in loader else []
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, dict):
            template_map_fn = value.get("template_map_fn")
            if isinstance(template_map_fn, dict) and template_map_fn.get("template") is not None:
                return template_map_fn["template"]
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value
    return None


def name_of(template: Mapping[str, Any]) -> str:
    """The name under which `template` is known."""
    names = [name for name, known in PROMPT_TEMPLATE.items() if known == template]
    return " or ".join(names) or "of its own"
