"""Render conversations with the tokenizer's `chat_template`, and find the spans of the answers.

    messages  user "Q", assistant "A"
    text      <|im_start|>user\\nQ<|im_end|>\\n<|im_start|>assistant\\nA<|im_end|>\\n
    span                                                             ^^^^^^^^^^^

A span begins after the generation prompt and covers all that the model has to generate: thinking, words, tool
calls and the end-of-turn token. A template with `{% generation %}` marks its spans. For all others,
outline.py finds the words of each message and answer_ends.py the characters around them that belong to the
answer. message_forms.py has the forms of a conversation that templates accept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xtuner.dataset.encoding.answer_ends import AnswerEnds
from xtuner.dataset.encoding.image_text import content_parts
from xtuner.dataset.encoding.message_forms import FORMS, Form, Messages, bare, in_form, prepared, some_of
from xtuner.dataset.encoding.outline import REASONING, Difference, Message, NoFitError, Outline, Word, common
from xtuner.dataset.map_fns.images import IMAGE_MARK
from xtuner.errors import DataError, ModelError
from xtuner.language import translate
from xtuner.log import say_once

Tools = Sequence[Mapping[str, Any]] | None

THINKING, EARLIER_THINKING = "thinking", "thinking of earlier answers"
_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


@dataclass(frozen=True)
class Rendered:
    """A text, its supervised spans of characters in order, and the kinds of words that are left out."""

    text: str
    spans: list[tuple[int, int]]
    left_out: frozenset[str] = field(default_factory=frozenset)


class ChatTemplate:
    """The chat template of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ModelError(
                translate(
                    "prompt_template = 'auto' takes the tokenizer's own chat_template, and this "
                    "tokenizer has none: name a template instead, such as prompt_template = "
                    "PROMPT_TEMPLATE.default"
                )
            )
        self._tokenizer = tokenizer
        self._ends = {with_tools: AnswerEnds(tokenizer) for with_tools in (False, True)}
        self._in_parts: bool | None = None
        self._chosen: dict[Any, tuple[Form, ...]] = {}  # possible forms of a conversation -> forms to use

    def write(self, messages: Sequence[Message], tools: Tools = None, *, prompt: bool = False) -> str:
        """The text of the conversation, with the generation prompt at its end if `prompt`.

        The conversation is passed in the form that the template accepts and writes completely, such as with
        the system text at the head of the first question. Raises DataError if it accepts no form.
        """
        return self._taken(prepared(messages), tools, prompt)[1]

    def render(
        self, messages: Sequence[Message], tools: Tools = None, *, keep_thinking: bool = False
    ) -> Rendered:
        """The text of the conversation and the spans of its answers, except those with `loss` false.

        With `keep_thinking` the thinking of the last answer is written even if the template leaves it out.
        """
        conversation = prepared(messages)
        rendered = self._rendered(conversation, tools)
        if keep_thinking and THINKING in rendered.left_out:
            return self._with_thinking(conversation, tools, rendered.left_out - {THINKING})
        return rendered

    def end_of_turn(self) -> str:
        """The end-of-turn token, or an empty text if the template writes none."""
        words = "Qzx0z"
        rendered = self.render([{"role": "user", "content": "Q"}, {"role": "assistant", "content": words}])
        return self._ends[False].first_mark(rendered.text[: rendered.spans[-1][1]].rpartition(words)[2])

    def _rendered(self, messages: Messages, tools: Tools) -> Rendered:
        taken, text = self._taken(messages, tools, False)
        supervised = [
            n for n, m in enumerate(taken) if m["role"] == "assistant" and m.get("loss") is not False
        ]
        by_marks = bool(_GENERATION.search(self._tokenizer.get_chat_template(None, tools)))
        marked = self._by_generation_marks(bare(taken), tools, supervised) if by_marks else None
        result = Rendered(*marked) if marked else None
        for kind in (Outline, Difference):
            source = kind(self._apply_to(tools), bare(taken), text)
            try:
                reading = source.whole()
                spans = marked or self._ends[bool(tools)].spans(reading, source, taken, supervised)
            except NoFitError:
                continue
            result = Rendered(*spans, frozenset(_kind(word, taken) for word in reading.missing))
            # An outline does not find a call of which only an id and numbers are written.
            if all(reading.parts(n) for n in supervised if taken[n].get("tool_calls")):
                break
        if result is not None:
            return result
        raise DataError(
            translate(
                "the tokenizer's chat template does not show which parts of the text are answers: name "
                "a prompt template instead of 'auto'"
            )
        )

    def _with_thinking(self, messages: Messages, tools: Tools, left_out: frozenset[str]) -> Rendered:
        """The conversation, its last answer as the model writes it: <think>, thinking, </think>, words."""
        *before, last = messages
        thought = next((last[key] for key in REASONING if last.get(key)), "")
        words = f"<think>\n{thought}\n</think>\n\n{last['content']}" if thought else last["content"]
        mark = _unused(words, messages)
        hidden = {key: value for key, value in last.items() if key not in REASONING} | {"content": mark}
        rendered = self._rendered([*before, hidden], tools)
        at = rendered.text.rindex(mark)
        text = rendered.text[:at] + words + rendered.text[at + len(mark) :]
        *spans, (start, end) = rendered.spans
        if start == at:
            # The model does not generate what the prompt contains.
            start += common(self._ends[bool(tools)].prompt_after(text[:at]), words)
        return Rendered(text, [*spans, (start, end + len(words) - len(mark))], left_out)

    def _apply_to(self, tools: Tools) -> Callable[..., str]:
        def apply(messages: Sequence[Message], prompt: bool = False) -> str:
            messages = self._in_parts_if_needed(messages)
            if any(message["content"] is None for message in messages):
                return self._render(messages, tools, add_generation_prompt=prompt)[0]
            return self._tokenizer.apply_chat_template(
                list(messages), tools=tools, tokenize=False, add_generation_prompt=prompt
            )

        return apply

    def _in_parts_if_needed(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages, with a content list for those with images, or for all if the template wants that."""
        wants = self._wants_parts()
        return [
            {**m, "content": content_parts(m["content"] or "")}
            if not isinstance(m["content"], list) and (wants or IMAGE_MARK in (m["content"] or ""))
            else m
            for m in messages
        ]

    def _wants_parts(self) -> bool:
        """Whether the template writes texts only as parts of a content list, as some of LLaVA do."""
        if self._in_parts is None:
            is_written = []
            for content in ("Qzx0z", [{"type": "text", "text": "Qzx0z"}]):
                try:
                    text = self._tokenizer.apply_chat_template(
                        [{"role": "user", "content": content}], tokenize=False
                    )
                except Exception:  # templates may raise anything
                    text = ""
                is_written.append("Qzx0z" in text)
            self._in_parts = is_written == [False, True]
        return self._in_parts

    def _render(self, messages: Sequence[Message], tools: Tools, **options: Any) -> tuple[str, Any]:
        """The text and its generation spans; unlike the tokenizer's method, this keeps a content of None."""
        from transformers.utils.chat_template_utils import render_jinja_template

        # Its annotation lacks the second result.
        result: Any = render_jinja_template(
            conversations=[[dict(message) for message in self._in_parts_if_needed(messages)]],
            tools=tools,  # type: ignore[arg-type]
            chat_template=self._tokenizer.get_chat_template(None, tools),
            **options,
            **self._tokenizer.special_tokens_map,
        )
        texts, marked = result
        return texts[0], marked[0] if marked else None

    # --- the form that the template takes ------------------------------------------------------------------

    def _taken(self, messages: Messages, tools: Tools, prompt: bool) -> tuple[Messages, str]:
        """The messages in the form of which the template writes most, and their text."""
        apply = self._apply_to(tools)
        forms = [form for form in FORMS if form.change(messages) is not None]
        key = (tuple(form.name for form in forms), bool(tools))
        first_error: Exception | None = None
        if forms and key in self._chosen:
            try:
                taken = in_form(messages, self._chosen[key])
                return taken, apply(bare(taken), prompt=prompt)
            except Exception as error:
                first_error = error
        best: tuple[int, tuple[Form, ...], Messages, str] | None = None
        for some in some_of(forms):
            taken = in_form(messages, some)
            try:
                text = apply(bare(taken), prompt=prompt)
            # Templates may raise anything, such as for a system text that they do not accept.
            except Exception as error:
                first_error = first_error or error
                continue
            lost = _num_lost(apply, taken, text, prompt) if forms else 0
            if best is None or lost < best[0]:
                best = lost, some, taken, text
            if not lost:
                break
        if best is None:
            raise DataError(
                translate(
                    "the tokenizer's chat template refuses this conversation of the roles {roles}: {error}",
                    roles=", ".join(str(m.get("role")) for m in messages),
                    error=first_error,
                )
            ) from first_error
        self._chosen[key] = best[1]
        for form in best[1]:
            if form.says:
                say_once(form.says)
        return best[2], best[3]

    # --- {% generation %} ----------------------------------------------------------------------------------

    def _by_generation_marks(
        self, messages: Sequence[Message], tools: Tools, supervised: Sequence[int]
    ) -> tuple[str, list[tuple[int, int]]]:
        text, indices = self._render(messages, tools, return_assistant_tokens_mask=True)
        marked: list[tuple[int, int]] = [(start, end) for start, end in indices]
        answers = [n for n, message in enumerate(messages) if message.get("role") == "assistant"]
        if len(supervised) == len(answers):
            return text, [span for span in marked if span[0] < span[1]]
        if len(marked) != len(answers):
            raise DataError(
                translate(
                    "the chat template marks {marked} parts as generated and the conversation has "
                    "{answers} answers, so those to leave out of training cannot be found",
                    marked=len(marked),
                    answers=len(answers),
                )
            )
        by_answer = dict(zip(answers, marked, strict=True))
        return text, [by_answer[n] for n in supervised]


def _unused(words: str, messages: Sequence[Message]) -> str:
    """A word that is in no message."""
    mark, texts = "Qwv", [words, *(str(message.get("content")) for message in messages)]
    while any(mark in text for text in texts):
        mark += "w"
    return mark


def _kind(word: Word, messages: Sequence[Message]) -> str:
    """The kind of a word that the template does not write."""
    role = messages[word.message].get("role")
    if role != "assistant":
        return {"system": "a system text", "user": "a question"}.get(str(role), "the result of a tool")
    if word.kind == "thinking":
        return THINKING if _is_latest(word.message, messages) else EARLIER_THINKING
    if word.kind in ("call", "arguments"):
        return "a tool call"
    return "the text beside a tool call" if messages[word.message].get("tool_calls") else "an answer"


def _is_latest(number: int, messages: Sequence[Message]) -> bool:
    """Whether no question comes after message `number`."""
    return all(message.get("role") != "user" for message in messages[number:])


def _num_lost(apply: Callable[..., str], messages: Messages, text: str, prompt: bool) -> int:
    """The number of texts that are left out, except earlier thinking, and of calls not written as JSON."""
    try:
        missing = Outline(apply, bare(messages), text).missing(prompt)
    except NoFitError:
        missing = []
    lost = [word for word in missing if _kind(word, messages) != EARLIER_THINKING]
    calls = [call["function"]["arguments"] for message in messages for call in message.get("tool_calls", ())]
    # {'city': 'P'}, as Python writes it.
    return len(lost) + sum(isinstance(call, Mapping) and bool(call) and str(call) in text for call in calls)
