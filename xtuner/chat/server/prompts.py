"""The prompt ids for the messages of a request.

    [system, user, assistant, user]  ->  ids, with a prompt template or the tokenizer's chat template
                                         oldest turns dropped if the context is too small

A prompt template has only a system text, questions and answers: tools are described in the system text,
calls and results are written between the marks of Hermes and Qwen models.
"""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from xtuner.chat.session import Session, encode_rendered, rendered
from xtuner.chat.typed import ControlTokens
from xtuner.dataset.encoding.chat_template import ChatTemplate
from xtuner.dataset.encoding.conversations import begin_ids
from xtuner.dataset.map_fns.fields import BETWEEN
from xtuner.dataset.map_fns.images import IMAGE_MARK
from xtuner.errors import DataError
from xtuner.generation.limits import prompt_limit
from xtuner.generation.pictures import Pictures
from xtuner.singular import filled
from xtuner.utils.templates import is_tokenizers_own

Message = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]] | None
Check = Callable[[], None]

_PIECE = 20_000  # characters of a long text that are encoded at a time

_INFILL = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
)
"""Tokens before the prefix, before the suffix, and before the text to fill in between them."""

_TOOLS = """You may call these functions:
<tools>
{tools}
</tools>
To call one, write its name and arguments as JSON between two marks:
<tool_call>
{{"name": "...", "arguments": {{...}}}}
</tool_call>"""


def _no_check() -> None:
    pass


@dataclass(frozen=True)
class Prompt:
    """The ids of a dialogue, the stop words of the answer, and the number of dropped turns."""

    ids: list[int]
    stop_words: list[str]
    num_dropped: int = 0


class PromptWriter:
    """Writes dialogues for one tokenizer; may be used from several threads.

    The parameter `check` of a method is called between two pieces of work and may raise to stop it.
    """

    def __init__(self, tokenizer: Any, context: int | None, pictures: Pictures | None = None) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.pictures = pictures
        # Threads may encode with one fast tokenizer at once, but not configure it, which is done here.
        self._control = ControlTokens(tokenizer)
        self._alone: AbstractContextManager[Any] = nullcontext() if tokenizer.is_fast else threading.RLock()
        self._own = lru_cache(maxsize=8)(self._make_own)
        self._own_end = self._own("{}").end_of_turn() if getattr(tokenizer, "chat_template", None) else ""

    def _make_own(self, variables: str) -> ChatTemplate:
        """The tokenizer's chat template with `variables`, a JSON object as text."""
        return ChatTemplate(_WithVariables(self.tokenizer, json.loads(variables)))

    def call_form(self, template: Mapping[str, Any] | None) -> tuple[bool, str]:
        """Whether calls are written between the marks of Hermes, and the key of their arguments."""
        if not is_tokenizers_own(template):
            return True, "arguments"
        text = str(self.tokenizer.chat_template)
        if "<tool_call>" in text:
            return True, "arguments"
        return False, "parameters" if "<|python_tag|>" in text or "<|plugin|>" in text else "arguments"

    def infill(self, prefix: str, suffix: str, check: Check = _no_check) -> list[int]:
        """The prompt to fill in between two texts; DataError if the model has no tokens for this."""
        vocabulary = self.tokenizer.get_vocab()
        known = [marks for marks in _INFILL if all(mark in vocabulary for mark in marks)]
        if not known:
            raise DataError("suffix: this model has no tokens for filling in: leave it out")
        before, after = (self.encode(text, check, special_tokens=False) for text in (prefix, suffix))
        begin, middle, end = (vocabulary[mark] for mark in known[0])
        return [*begin_ids(self.tokenizer).tolist(), begin, *before, middle, *after, end]

    def encode(self, text: str, check: Check = _no_check, *, special_tokens: bool = True) -> list[int]:
        """The ids of plain text, with the tokenizer's special tokens if `special_tokens`."""
        _check_characters(text)
        if not self._may_fit(text, self.context, check):
            raise DataError(
                f"the prompt has more than {self.context} tokens, which is what the model's context holds"
            )
        with self._alone:
            return list(self.tokenizer.encode(text, add_special_tokens=special_tokens))

    def write(
        self,
        messages: Sequence[Message],
        template: Mapping[str, Any] | None,
        tools: Tools,
        max_new_tokens: int,
        check: Check = _no_check,
        variables: Mapping[str, Any] | None = None,
    ) -> Prompt:
        """The prompt for the next answer; DataError if the messages are invalid or do not fit.

        `variables` are passed to the tokenizer's chat template.
        """
        if not messages or messages[-1]["role"] == "assistant":
            raise DataError("messages: the last one must be a user's or a tool's: there is nothing to answer")
        _check_characters([messages, tools])
        messages = [self._as_text(message) for message in messages]
        limit = prompt_limit(self.context, max_new_tokens)
        if is_tokenizers_own(template):
            own = self._own(json.dumps(_checked(variables or {}), sort_keys=True))
            return self._write_with_own(own, messages, tools, limit, check)
        return self._write_with_ours(messages, template, tools, max_new_tokens, check)

    def _write_with_own(
        self, own: ChatTemplate, messages: Sequence[Message], tools: Tools, limit: int | None, check: Check
    ) -> Prompt:
        system = [m for m in messages if m["role"] == "system"]
        turns = _turns([m for m in messages if m["role"] != "system"])

        def write(count: int) -> list[int] | None:
            check()
            kept = [*system, *(m for turn in turns[len(turns) - count :] for m in turn)]
            # Each message has at least one token.
            if limit is not None and len(kept) > limit:
                return None
            text = rendered(own, kept, self.pictures, tools)
            if not self._may_fit(text, limit, check):
                return None
            with self._alone:
                ids = encode_rendered(self.tokenizer, text, self.pictures, self._control)
            too_long.append(len(ids))
            return ids if limit is None or len(ids) <= limit else None

        too_long: list[int] = []
        count, ids = _most_that_fit(len(turns), write, _is_short(messages, limit))
        if ids is None:
            raise _too_long(min(too_long, default=None), self.context, limit)
        return Prompt(ids, [self._own_end] if self._own_end else [], len(turns) - count)

    def _write_with_ours(
        self,
        messages: Sequence[Message],
        template: Mapping[str, Any] | None,
        tools: Tools,
        max_new_tokens: int,
        check: Check,
    ) -> Prompt:
        system = [m["content"] for m in messages if m["role"] == "system"]
        if tools:
            listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
            system.append(_TOOLS.format(tools=listed))
        limit = prompt_limit(self.context, max_new_tokens)

        def may_fit(text: str) -> bool:
            check()
            return self._may_fit(text, limit, check)

        *before, last = _questions_and_answers(messages)
        if not all(map(may_fit, (last[0], *system))):
            raise _too_long(None, self.context, limit)
        session = Session(
            self.tokenizer,
            template,
            BETWEEN.join(system),
            context=self.context,
            pictures=self.pictures,
            control=self._control,
        )
        with self._alone:
            session.recall(before, max_new_tokens, may_fit)
            ids, _ = session.fit(last[0], max_new_tokens)
        words = list(session.template.get("STOP_WORDS") or [])
        return Prompt(ids, words, len(before) - len(session.turns))

    def _as_text(self, message: Message) -> Message:
        """`message`, in which control tokens written by a user or a tool are plain text."""
        content = message.get("content")
        if message["role"] not in ("user", "tool") or not content:
            return message
        # Nobody writes these characters by chance; a template would write an image for them.
        return {**message, "content": self._control.hide(content.replace(IMAGE_MARK, ""))}

    def _may_fit(self, text: str, limit: int | None, check: Check) -> bool:
        """False if the first pieces of `text` have far more than `limit` tokens."""
        if limit is None or len(text) <= _PIECE:
            return True
        count = 0
        for start in range(0, len(text), _PIECE):
            check()
            with self._alone:
                count += len(self.tokenizer.encode(text[start : start + _PIECE], add_special_tokens=False))
            # A cut inside a word adds a few tokens.
            if count > 2 * limit + _PIECE:
                return False
        return True


class _WithVariables:
    """A tokenizer that passes `variables` to its chat template."""

    def __init__(self, tokenizer: Any, variables: Mapping[str, Any]) -> None:
        self._tokenizer, self._variables = tokenizer, variables

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def apply_chat_template(self, *args: Any, **options: Any) -> Any:
        return self._tokenizer.apply_chat_template(*args, **options, **self._variables)


def _checked(variables: Mapping[str, Any]) -> Mapping[str, Any]:
    """`variables`; DataError for one that is an argument of apply_chat_template."""
    from transformers import PreTrainedTokenizerBase

    own = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
    for name in variables:
        if name in own or name in ("messages", "bos_token", "eos_token"):
            raise DataError(f"chat_template_kwargs: {name!r} cannot be given here: leave it out")
    return variables


def _most_that_fit(
    total: int, write: Callable[[int], list[int] | None], is_short: bool
) -> tuple[int, list[int] | None]:
    """The largest number of turns up to `total` for which `write` does not return None, and its result.

    No attempt is much longer than the result, however long the whole dialogue is.
    """
    if is_short and (ids := write(total)) is not None:
        return total, ids
    fitting, best, count = 0, None, 1
    while (ids := write(count)) is not None:
        fitting, best = count, ids
        if count == total:
            return fitting, best
        count = min(2 * count, total)
    while count - fitting > 1:
        middle = (fitting + count) // 2
        if (ids := write(middle)) is None:
            count = middle
        else:
            fitting, best = middle, ids
    return fitting, best


def _is_short(messages: Sequence[Message], limit: int | None) -> bool:
    """Whether encoding the whole dialogue costs little compared with `limit` tokens."""
    size = sum(len(m.get("content") or "") for m in messages)
    return limit is None or (size <= 16 * limit and len(messages) <= limit)


def _check_characters(value: Any) -> None:
    """Raise DataError for surrogates: JSON can contain half a character, but no tokenizer accepts one."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise DataError(f"the text holds {half}, which is half a character: write the whole one") from error


def _too_long(length: int | None, context: int | None, limit: int | None) -> DataError:
    size = f"more than {limit}" if length is None else length
    return DataError(
        filled(
            "this input has {count} tokens; the context of {context} leaves room for {limit}",
            count=size,
            context=context,
            limit=limit,
        )
    )


def _turns(messages: Sequence[Message]) -> list[list[Message]]:
    """Messages in turns, each of which begins with a user's message."""
    turns: list[list[Message]] = []
    for message in messages:
        if not turns or message["role"] == "user":
            turns.append([])
        turns[-1].append(message)
    return turns or [[]]


def _questions_and_answers(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Pairs of a question and its answer; the last answer is empty."""
    pairs: list[tuple[list[str], list[str]]] = []
    for message in messages:
        if message["role"] == "system":
            continue
        if message["role"] == "assistant":
            if not pairs:
                pairs.append(([], []))
            calls = [_call_text(call) for call in message.get("tool_calls") or []]
            words = "\n".join(text for text in (message.get("content"), *calls) if text)
            thought = message.get("reasoning_content")
            pairs[-1][1].append(f"<think>\n{thought}\n</think>\n\n{words}" if thought else words)
            continue
        if not pairs or pairs[-1][1]:
            pairs.append(([], []))
        text = message.get("content") or ""
        result = f"<tool_response>\n{text}\n</tool_response>"
        pairs[-1][0].append(result if message["role"] == "tool" else text)
    if not pairs:
        raise DataError("messages: there is no message of a user")
    # As training joins them.
    return [
        (BETWEEN.join(filter(None, questions)), BETWEEN.join(filter(None, answers)))
        for questions, answers in pairs
    ]


def _call_text(call: Mapping[str, Any]) -> str:
    function = call["function"]
    value = {"name": function["name"], "arguments": function["arguments"]}
    return f"<tool_call>\n{json.dumps(value, ensure_ascii=False)}\n</tool_call>"
