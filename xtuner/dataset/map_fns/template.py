"""Put a prompt template around each turn of a conversation.

{"system": S, "input": Q, "output": A}, template internlm2_chat
-> {"input": "<|im_start|>system...<|im_start|>assistant\\n", "output": "A<|im_end|>",
    "need_eos_token": False, "sep": "\\n"}
"""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from xtuner.dataset.map_fns.fields import items, turn_text
from xtuner.errors import ConfigError
from xtuner.utils import PROMPT_TEMPLATE, render_prompt

Template = Mapping[str, Any]


def template_map_fn(example: Mapping[str, Any], template: Template) -> dict:
    """`example` with the template around every turn; everything else in it is kept."""
    conversation = []
    for number, turn in enumerate(items(example, "conversation"), start=1):
        conversation.append(
            {
                **turn,
                "input": render_prompt(
                    template, turn_text(turn, "input"), turn_text(turn, "system"), round=number
                ),
                "output": turn_text(turn, "output") + (template.get("SUFFIX") or ""),
                "need_eos_token": not template.get("SUFFIX_AS_EOS", False),
                "sep": template.get("SEP") or "",
            }
        )
    return {**example, "conversation": conversation}


def template_map_fn_factory(template: Template | str) -> Callable[[Mapping[str, Any]], dict]:
    """A function of one row that puts `template` around its turns.

    `template` is the template itself, its name, or the dotted path that a written-back config holds.
    """
    return functools.partial(template_map_fn, template=find_template(template))


def find_template(template: Template | str) -> Template:
    """The template meant by `template`: itself, a name in PROMPT_TEMPLATE, or a dotted path to one."""
    if isinstance(template, str):
        if "." not in template:
            return PROMPT_TEMPLATE[template]
        try:
            template = pkgutil.resolve_name(template)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"prompt template {template!r} cannot be found: {error}") from error
    if not isinstance(template, Mapping) or "INSTRUCTION" not in template:
        raise ConfigError(
            "a prompt template is a dict with INSTRUCTION and, where needed, SYSTEM, SUFFIX, SUFFIX_AS_EOS, "
            f"SEP and STOP_WORDS; got {template!r:.200}"
        )
    return template
