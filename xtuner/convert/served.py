"""Write chat template and end-of-turn tokens, so that other programs prompt a model as it was trained.

    PROMPT_TEMPLATE.internlm2_chat   ->   chat_template.jinja      {{- "<|im_start|>user\\n" + content + ...
    SUFFIX "<|im_end|>", eos "</s>"  ->   generation_config.json   "eos_token_id": [2, 92542]

The chat template is tested: the folder's tokenizer encodes dialogues as `transformers`, vLLM and others
would, and the ids are compared with those of training. If the tokenizer's own chat template gives the same
ids, it is kept: it may know more, such as tools.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xtuner.chat.trained_with import name_of, trained_template
from xtuner.dataset.encoding.chat_template import ChatTemplate
from xtuner.dataset.encoding.conversations import begin_ids, encode_conversations, end_ids
from xtuner.dataset.map_fns.template import template_map_fn
from xtuner.errors import ModelError
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model.tokenizer import load_tokenizer
from xtuner.model_folder import has_tokenizer
from xtuner.utils.templates import fill_placeholders, is_tokenizers_own

Messages = list[dict[str, str]]
_WORDS = ("What is 2 + 2?", "It is 4.", "And in words:\n  1. in French?", "Quatre!", "你好 {input}", "再见。")
_FILE = "chat_template.jinja"
_GENERATION = "generation_config.json"


def serve_as_trained(folder: Path) -> None:
    """Give a model folder the chat template and end tokens of its `xtuner_config.py`, and log them."""
    template = trained_template([folder])
    if template is None or not has_tokenizer(folder):
        return
    try:
        tokenizer = load_tokenizer(folder)
    except ModelError as error:  # it needs remote code, which conversion does not run
        logger.warning(
            translate("the folder keeps the base's chat template and end-of-turn tokens: %s"), error
        )
        return
    if not is_tokenizers_own(template):
        _write_chat_template(folder, tokenizer, template)
    _write_ends(folder, tokenizer, template)


def _write_chat_template(folder: Path, tokenizer: Any, template: Mapping[str, Any]) -> None:
    own = getattr(tokenizer, "chat_template", None)
    if own and _count_equal(tokenizer, template) == len(dialogues(template)):
        logger.info(translate("The tokenizer's own chat template gives the prompts of training and is kept"))
        return
    tokenizer.chat_template = jinja(template, tokenizer)
    (folder / _FILE).write_text(tokenizer.chat_template, "utf-8")
    _remove_template(folder / "tokenizer_config.json")
    num_equal, total = _count_equal(tokenizer, template), len(dialogues(template))
    what = translate(
        "%s: the prompt template %s, instead of the base's; %d of %d dialogues give the token ids of training"
        if own
        else "%s: the prompt template %s, instead of none; %d of %d dialogues give the token ids of training"
    )
    logger.info(what, _FILE, name_of(template), num_equal, total)
    if num_equal < total:
        logger.warning(
            translate(
                "the tokenizer merges tokens across the ends of the prompt template: programs that "
                "encode a dialogue as one text give the model other tokens than training; xtuner "
                "chat and serve do not"
            )
        )


def _remove_template(path: Path) -> None:
    """Remove the template from a tokenizer's config, which older programs prefer to chat_template.jinja."""
    if path.is_file():
        config = json.loads(path.read_text("utf-8"))
        if config.pop("chat_template", None) is not None:
            path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")


def dialogues(template: Mapping[str, Any]) -> list[Messages]:
    """Dialogues that end with a question: with and without a system text, short and long."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": words} for i, words in enumerate(_WORDS[:5])]
    system = {"role": "system", "content": "Be brief.\nAnswer in one line."}
    return [turns[:1], turns, [system, *turns[:1]], [system, *turns]]


def _count_equal(tokenizer: Any, template: Mapping[str, Any]) -> int:
    """The number of dialogues for which the tokenizer's chat template gives the ids of training."""
    return sum(
        _served_ids(tokenizer, messages) == trained_ids(tokenizer, template, messages)
        for messages in dialogues(template)
    )


def _served_ids(tokenizer: Any, messages: Messages) -> list[int]:
    text = ChatTemplate(tokenizer).write(messages, prompt=True)
    return list(tokenizer.encode(text, add_special_tokens=False))


def trained_ids(tokenizer: Any, template: Mapping[str, Any], messages: Messages) -> list[int]:
    """The ids of the dialogue before its answer, as training encodes them."""
    rest, turns = list(messages), []
    while rest:
        system = rest.pop(0)["content"] if rest[0]["role"] == "system" else ""
        question, answer = rest.pop(0)["content"], rest.pop(0)["content"] if rest else _WORDS[-1]
        turns.append({"system": system, "input": question, "output": answer})
    conversation = template_map_fn({"conversation": turns}, template=template)["conversation"]
    sample = encode_conversations([conversation], tokenizer)
    trained = sample.trained.tolist()
    start = len(trained) - trained[::-1].index(True)
    while start and trained[start - 1]:
        start -= 1
    return sample.ids[:start].tolist()


def jinja(template: Mapping[str, Any], tokenizer: Any) -> str:
    """`template` as a Jinja chat template."""
    ends_with_eos = not template.get("SUFFIX_AS_EOS", False)
    begin, end = (
        "".join(tokenizer.convert_ids_to_tokens(ids.tolist()))
        for ids in (begin_ids(tokenizer), end_ids(tokenizer))
    )
    after = (template.get("SUFFIX") or "") + (end if ends_with_eos else "") + (template.get("SEP") or "")
    question = _text(template["INSTRUCTION"], input="content")
    both = template.get("INSTRUCTION_WITH_SYSTEM")
    if both is not None:
        with_system = _text(both, system="state.system", input="content")
    else:
        layout = template.get("SYSTEM")
        head = _text(layout, system="state.system") if layout else "state.system | trim('\\n') + \"\\n\""
        with_system = f"{head} + {question}"
    opening = f"{{{{- {_quoted(begin)} }}}}" if begin else ""
    if begin and not ends_with_eos:
        opening = f"{{%- if state.round == 1 -%}}{opening}{{%- endif -%}}"
    return _JINJA.format(opening=opening, question=question, with_system=with_system, after=_quoted(after))


CONTENT = '{%- set content = message["content"] -%}'
_JINJA = """\
{{%- set state = namespace(system="", round=0) -%}}
{{%- for message in messages -%}}
{{%- set content = message["content"] -%}}
{{%- if message["role"] == "system" -%}}
{{%- set state.system = state.system + "\\n\\n" + content if state.system else content -%}}
{{%- elif message["role"] == "user" -%}}
{{%- set state.round = state.round + 1 -%}}
{opening}
{{%- if state.system -%}}
{{{{- {with_system} -}}}}
{{%- else -%}}
{{{{- {question} -}}}}
{{%- endif -%}}
{{%- set state.system = "" -%}}
{{%- elif message["role"] == "assistant" -%}}
{{{{- content + {after} -}}}}
{{%- else -%}}
{{{{- raise_exception("this model was trained with roles system, user and assistant") -}}}}
{{%- endif -%}}
{{%- endfor -%}}
"""


def _text(layout: str, **names: str) -> str:
    """A text with placeholders as an expression of Jinja: `"<user> " + content`."""
    marks = {name: f"\x00{name}\x00" for name in ("system", "input", "round")}
    parts = fill_placeholders(layout, **marks, bot_name="BOT").split("\x00")
    expressions = {"round": "(state.round | string)", **names}
    return " + ".join(
        expressions[part] if number % 2 else _quoted(part)
        for number, part in enumerate(parts)
        if part or number % 2
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def ends_of(folder: Path) -> list[int]:
    """The ids of the tokens that end an answer, from `generation_config.json`."""
    path = folder / _GENERATION
    known = json.loads(path.read_text("utf-8")).get("eos_token_id") if path.is_file() else None
    return [] if known is None else known if isinstance(known, list) else [known]


def _write_ends(folder: Path, tokenizer: Any, template: Mapping[str, Any]) -> None:
    """Write every token that ends an answer to `generation_config.json`."""
    path, known = folder / _GENERATION, ends_of(folder)
    config = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    ends, in_pieces = end_tokens(tokenizer, template)
    found = list(dict.fromkeys([*known, *ends]))
    if found != known:
        path.write_text(json.dumps({**config, "eos_token_id": found}, indent=2) + "\n", "utf-8")
    names = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(found)))
    logger.info(translate("An answer ends with %s: %s"), names, _GENERATION)
    for word in in_pieces:
        logger.warning(
            translate("%r ends an answer but is several tokens: set servers to stop at this text"), word
        )


def end_tokens(tokenizer: Any, template: Mapping[str, Any]) -> tuple[list[int], list[str]]:
    """The ids of tokens that end an answer, and texts that end one but are several tokens."""
    words: Sequence[str] = [*(template.get("STOP_WORDS") or ()), (template.get("SUFFIX") or "").strip()]
    if is_tokenizers_own(template):
        words = [ChatTemplate(tokenizer).end_of_turn()]
    found, in_pieces = end_ids(tokenizer).tolist(), []
    for word in dict.fromkeys(filter(None, words)):
        ids = list(tokenizer.encode(word, add_special_tokens=False))
        if len(ids) == 1:
            found.append(ids[0])
        else:
            in_pieces.append(word)
    return list(dict.fromkeys(found)), in_pieces
