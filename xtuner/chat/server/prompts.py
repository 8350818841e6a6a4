"""From the messages of a request to the ids put to the model.

    [system, user, assistant, user]  ->  ids, under a prompt template of ours or the tokenizer's own
                                         oldest turns dropped where the context is too small

Ours know a system text, questions and answers: tools are explained in the system text, calls and results
are written between the marks that Hermes and Qwen models use.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xtuner.chat.generate import Completion
from xtuner.chat.pictures import Pictures
from xtuner.chat.session import Session, encode_rendered
from xtuner.dataset.chat_template import ChatTemplate
from xtuner.errors import DataError
from xtuner.utils.templates import is_tokenizers_own

Message = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]] | None

_TOOLS = """You may call these functions:
<tools>
{tools}
</tools>
To call one, write its name and arguments as JSON between two marks:
<tool_call>
{{"name": "...", "arguments": {{...}}}}
</tool_call>"""


@dataclass(frozen=True)
class Prompt:
    """The ids of a dialogue, the words that end the answer, and how many turns had no room."""

    ids: list[int]
    stop_words: list[str]
    num_dropped: int = 0


class PromptWriter:
    """Writes dialogues for one tokenizer; may be used from several threads."""

    def __init__(self, tokenizer: Any, context: int | None, pictures: Pictures | None = None) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.pictures = pictures
        self._lock = threading.Lock()  # a fast tokenizer cannot be used by two threads at once
        self._own: ChatTemplate | None = None

    def encode(self, text: str) -> list[int]:
        """The ids of plain text, with what the tokenizer puts at its beginning."""
        _check_characters(text)
        with self._lock:
            return list(self.tokenizer.encode(text))

    def write(
        self,
        messages: Sequence[Message],
        template: Mapping[str, Any] | None,
        tools: Tools,
        max_new_tokens: int,
    ) -> Prompt:
        """The prompt for the next answer; DataError where it cannot be written or does not fit."""
        if not messages or messages[-1]["role"] == "assistant":
            raise DataError("messages: the last one must be a user's or a tool's: there is nothing to answer")
        _check_characters([messages, tools])
        with self._lock:
            if is_tokenizers_own(template):
                return self._write_with_own(messages, tools, max_new_tokens)
            return self._write_with_ours(messages, template, tools, max_new_tokens)

    def _write_with_own(self, messages: Sequence[Message], tools: Tools, max_new_tokens: int) -> Prompt:
        self._own = self._own or ChatTemplate(self.tokenizer)
        system = [m for m in messages if m["role"] == "system"]
        turns = _turns([m for m in messages if m["role"] != "system"])
        limit = _limit(self.context, max_new_tokens)
        for num_dropped in range(len(turns)):
            kept = [*system, *(m for turn in turns[num_dropped:] for m in turn)]
            text = self._own.write(kept, tools, prompt=True)
            ids = encode_rendered(self.tokenizer, text, self.pictures)
            if limit is None or len(ids) <= limit:
                end = self._own.end_of_turn()
                return Prompt(ids, [end] if end else [], num_dropped)
        raise _too_long(len(ids), self.context, limit)

    def _write_with_ours(
        self,
        messages: Sequence[Message],
        template: Mapping[str, Any] | None,
        tools: Tools,
        max_new_tokens: int,
    ) -> Prompt:
        system = [m["content"] for m in messages if m["role"] == "system"]
        if tools:
            listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
            system.append(_TOOLS.format(tools=listed))
        session = Session(
            self.tokenizer, template, "\n".join(system), context=self.context, pictures=self.pictures
        )
        *before, last = _questions_and_answers(messages)
        suffix = session.template.get("SUFFIX") or ""
        for question, answer in before:
            ids = self.tokenizer.encode(answer + suffix, add_special_tokens=False) if answer + suffix else []
            session.answered(
                question, Completion(answer, list(ids), "stop" if suffix else "length", 0.0), set()
            )
        ids = session.ask(last[0], max_new_tokens)
        words = list(session.template.get("STOP_WORDS") or [])
        return Prompt(ids, words, len(before) - len(session.turns))


def _check_characters(value: Any) -> None:
    """Raise DataError for halves of characters, which JSON can hold and no tokenizer takes."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise DataError(f"the text holds {half}, which is half a character: write the whole one") from error


def _limit(context: int | None, max_new_tokens: int) -> int | None:
    return None if context is None else context - max(1, min(max_new_tokens, context // 4))


def _too_long(length: int, context: int | None, limit: int | None) -> DataError:
    return DataError(f"this input has {length} tokens; the context of {context} leaves room for {limit}")


def _turns(messages: Sequence[Message]) -> list[list[Message]]:
    """Messages in turns, each of which begins with a user's."""
    turns: list[list[Message]] = []
    for message in messages:
        if not turns or message["role"] == "user":
            turns.append([])
        turns[-1].append(message)
    return turns or [[]]


def _questions_and_answers(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Pairs of what was put to the model and what it said; the last answer is empty."""
    pairs: list[tuple[list[str], list[str]]] = []
    for message in messages:
        if message["role"] == "system":
            continue
        if message["role"] == "assistant":
            if not pairs:
                pairs.append(([], []))
            calls = [_call_text(call) for call in message.get("tool_calls") or []]
            pairs[-1][1].extend(text for text in (message.get("content"), *calls) if text)
            continue
        if not pairs or pairs[-1][1]:
            pairs.append(([], []))
        text = message.get("content") or ""
        result = f"<tool_response>\n{text}\n</tool_response>"
        pairs[-1][0].append(result if message["role"] == "tool" else text)
    if not pairs:
        raise DataError("messages: there is no message of a user")
    return [("\n".join(asked), "\n".join(said)) for asked, said in pairs]


def _call_text(call: Mapping[str, Any]) -> str:
    function = call["function"]
    value = {"name": function["name"], "arguments": function["arguments"]}
    return f"<tool_call>\n{json.dumps(value, ensure_ascii=False)}\n</tool_call>"
