"""Put a prompt template around each turn of a conversation.

{"system": S, "input": Q, "output": A}, template internlm2_chat
-> {"input": "<|im_start|>system...<|im_start|>assistant\\n", "output": "A<|im_end|>",
    "need_eos_token": False, "sep": "\\n"}

template auto: the tokenizer's chat_template, applied later, by encoding
-> {"messages": [{"role": "system", "content": S}, {"role": "user", "content": Q},
                 {"role": "assistant", "content": A}]}
"""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xtuner.dataset.map_fns.fields import is_trained, items, turn_text
from xtuner.errors import ConfigError, DataError
from xtuner.language import translate
from xtuner.utils import PROMPT_TEMPLATE, render_prompt
from xtuner.utils.templates import is_tokenizers_own

Template = Mapping[str, Any]


def template_map_fn(example: Mapping[str, Any], template: Template) -> dict:
    """`example` with the template around every turn; other fields are kept."""
    conversation = []
    for number, turn in enumerate(items(example, "conversation"), start=1):
        _check_flags(turn)
        conversation.append(
            {
                # `messages` would be a second form of the texts.
                **{key: value for key, value in turn.items() if key != "messages"},
                "input": render_prompt(
                    template, turn_text(turn, "input"), turn_text(turn, "system"), round=number
                ),
                "output": turn_text(turn, "output") + (template.get("SUFFIX") or ""),
                "need_eos_token": not template.get("SUFFIX_AS_EOS", False),
                "sep": template.get("SEP") or "",
            }
        )
    return {**example, "conversation": conversation}


def chat_messages_map_fn(example: Mapping[str, Any]) -> dict:
    """`example` with its whole conversation as one list of messages, for the tokenizer's chat template.

    A turn may have `messages`, as in rows with tools, and the first one `tools`; other turns become a system,
    a user and an assistant message. Unsupervised answers have `loss` false.
    """
    messages: list[dict[str, Any]] = []
    tools = None
    for turn in items(example, "conversation"):
        tools = tools or turn.get("tools")
        own = items(turn, "messages") if turn.get("messages") else _plain_messages(turn)
        answers = _first_answer(own)
        skipped = {} if is_trained(turn) else {"loss": False}
        messages += [*own[:answers], *({**message, **skipped} for message in own[answers:])]
    if not messages:
        return {**example, "conversation": []}
    return {**example, "conversation": [{"messages": messages, **({"tools": tools} if tools else {})}]}


def _check_flags(turn: Mapping[str, Any]) -> None:
    """DataError for consecutive answers of which only some are supervised: a template joins them."""
    messages = turn.get("messages") or ()
    if len({is_trained(message) for message in messages[_first_answer(messages) :]}) > 1:
        raise DataError(
            translate(
                "consecutive answers become one answer in a prompt template, but only some of these "
                "are to be trained: set prompt_template = PROMPT_TEMPLATE.auto, which writes each of "
                "them"
            )
        )


def _first_answer(messages: Sequence[Mapping[str, Any]]) -> int:
    """The number of the first of the answers that end `messages`."""
    others = [number for number, message in enumerate(messages) if message.get("role") != "assistant"]
    return others[-1] + 1 if others else 0


def _plain_messages(turn: Mapping[str, Any]) -> list[dict[str, Any]]:
    system, question = turn_text(turn, "system"), turn_text(turn, "input")
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": question}] if question or not system else []
    return [*messages, {"role": "assistant", "content": turn_text(turn, "output")}]


def template_map_fn_factory(template: Template | str) -> Callable[[Mapping[str, Any]], dict]:
    """A function of one row that puts `template` around its turns.

    `template` is the template itself, its name, or a dotted path, as in saved configs; `auto` is the chat
    template of the tokenizer.
    """
    if is_tokenizers_own(found := find_template(template)):
        return chat_messages_map_fn
    return functools.partial(template_map_fn, template=found)


def find_template(template: Template | str) -> Template:
    """The template itself, or the one of a name in PROMPT_TEMPLATE or a dotted path."""
    if isinstance(template, str):
        if "." not in template:
            return PROMPT_TEMPLATE[template]
        try:
            template = pkgutil.resolve_name(template)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                translate(
                    "prompt template {template!r} cannot be found: {error}", template=template, error=error
                )
            ) from error
    if not isinstance(template, Mapping) or not ("INSTRUCTION" in template or is_tokenizers_own(template)):
        raise ConfigError(
            translate(
                "a prompt template is a dict with INSTRUCTION and, where needed, SYSTEM, SUFFIX, "
                "SUFFIX_AS_EOS, SEP and STOP_WORDS; got {template!r:.200}",
                template=template,
            )
        )
    return template
