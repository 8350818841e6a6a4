"""A dialogue as the tokenizer's own `chat_template` writes it, and which characters of it are the model's.

    messages  user "Q", assistant "A"
    text      <|im_start|>user\\nQ<|im_end|>\\n<|im_start|>assistant\\nA<|im_end|>\\n
    span                                                             ^^^^^^^^^^^

A span begins where the generation prompt ends and holds all that the model itself has to write: thinking,
words, tool calls and the mark that ends its turn. A template with `{% generation %}` tells its spans. For all
others the dialogue is rendered twice, as it is and with a made-up word in place of each text:

    text      <|im_start|>user\\n  Q   <|im_end|>\\n<|im_start|>assistant\\n  A   <|im_end|>\\n
    outline   <|im_start|>user\\nQzx0z<|im_end|>\\n<|im_start|>assistant\\nQzx1z<|im_end|>\\n

The outline shows what the template wrote and what came from the messages, whatever stands in them, and must
fit the text to the last character. Where a turn begins and ends inside the template's own words is learnt
from a dialogue cut off there, once for each different wording, so the work grows with the number of turns and
not with its square. A dialogue that does not fit its outline is measured by rendering each beginning of it.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xtuner.errors import DataError, ModelError
from xtuner.log import say_once

Message = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]] | None

_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
# Templates look for these inside a text, so they stay as they are when the text is hidden.
_TAGS = re.compile(r"(</?(?:think|thinking|tool_call|tool_response|tools|answer)>)")
_REASONING = ("reasoning_content", "reasoning", "thinking")


@dataclass(frozen=True)
class Rendered:
    """A text and the spans of characters in it that are trained, in order."""

    text: str
    spans: list[tuple[int, int]]


@dataclass(frozen=True)
class _Slot:
    """A place of the outline, `start:end`, where `words` of message number `message` stand in the text."""

    start: int
    end: int
    message: int
    words: str


class _NoFitError(Exception):
    """The outline does not fit the text, or does not show where a turn begins or ends."""


class ChatTemplate:
    """The chat template of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ModelError(
                "prompt_template = 'auto' takes the tokenizer's own chat_template, and this tokenizer has "
                "none: name a template instead, such as prompt_template = PROMPT_TEMPLATE.default"
            )
        self._tokenizer = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        words = {str(token) for token in added if getattr(token, "special", False)}
        words |= {word for word in getattr(tokenizer, "all_special_tokens", []) if word}
        # Marks of thinking and of tools, which some tokenizers also call special, end no turn.
        longest_first = sorted((word for word in words if not _TAGS.fullmatch(word)), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._special_run = re.compile(f"(?:{self._special.pattern})+")
        self._in_parts: bool | None = None
        self._starts: dict[str, int] = {}  # words before an answer -> how many of them come before its span
        self._ends: dict[Any, Any] = {}  # words after an answer -> how many of them belong to its span

    def write(self, messages: Sequence[Message], tools: Tools = None, *, prompt: bool = False) -> str:
        """The text of the dialogue, with what opens an answer at its end if `prompt`.

        A template that takes no system text gets it at the head of the first question. Raises DataError for
        a dialogue that the template does not take.
        """
        _, text = self._write_accepted(_prepared(messages), tools, prompt)
        return text

    def render(self, messages: Sequence[Message], tools: Tools = None) -> Rendered:
        """The text of the dialogue and the spans of its answers, but for those with `loss` false."""
        prepared, text = self._write_accepted(_prepared(messages), tools, False)
        wanted = [
            n for n, m in enumerate(prepared) if m.get("role") == "assistant" and m.get("loss") is not False
        ]
        bare = [{k: v for k, v in m.items() if k != "loss"} for m in prepared]
        if _GENERATION.search(self._source(tools)):
            return self._by_generation_marks(bare, tools, wanted)
        try:
            spans = self._by_outline(text, bare, tools, wanted)
        except _NoFitError:
            spans = self._by_prefixes(text, bare, tools, wanted)
        return Rendered(text, spans)

    def end_of_turn(self) -> str:
        """The mark that ends an answer, empty where the template writes none."""
        words = "Qzx0z"
        dialogue = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": words}]
        tail = self.write(dialogue).rpartition(words)[2]
        match = self._special.match(tail.lstrip())
        return match.group() if match else ""

    def _source(self, tools: Tools) -> str:
        return self._tokenizer.get_chat_template(None, tools)

    def _apply(self, messages: Sequence[Message], tools: Tools, prompt: bool = False) -> str:
        if self._wants_parts():
            messages = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        return self._tokenizer.apply_chat_template(
            list(messages), tools=tools, tokenize=False, add_generation_prompt=prompt
        )

    def _wants_parts(self) -> bool:
        """Whether the template writes texts only where they are parts of a content, as some of LLaVA do."""
        if self._in_parts is None:
            shown = []
            for content in ("Qzx0z", [{"type": "text", "text": "Qzx0z"}]):
                try:
                    text = self._tokenizer.apply_chat_template(
                        [{"role": "user", "content": content}], tokenize=False
                    )
                except Exception:  # templates raise errors of their own
                    text = ""
                shown.append("Qzx0z" in text)
            self._in_parts = shown == [False, True]
        return self._in_parts

    def _write_accepted(
        self, messages: list[dict[str, Any]], tools: Tools, prompt: bool
    ) -> tuple[list[dict[str, Any]], str]:
        """The messages in a form that the template takes, and their text."""
        try:
            return messages, self._apply(messages, tools, prompt)
        # Templates raise errors of their own: for a system text they have no place for, say.
        except Exception as error:
            merged = _system_in_question(messages)
            if merged is not None:
                try:
                    text = self._apply(merged, tools, prompt)
                except Exception:
                    text = None
                if text is not None:
                    say_once(
                        "the tokenizer's chat template takes no system text: it is put at the head of the "
                        "first question"
                    )
                    return merged, text
            raise DataError(
                f"the tokenizer's chat template does not take this dialogue of the roles "
                f"{', '.join(str(m.get('role')) for m in messages)}: {error}"
            ) from error

    # --- {% generation %} ----------------------------------------------------------------------------------

    def _by_generation_marks(
        self, messages: Sequence[Message], tools: Tools, wanted: Sequence[int]
    ) -> Rendered:
        from transformers.utils.chat_template_utils import render_jinja_template

        # Its annotation names the texts alone.
        result: Any = render_jinja_template(
            conversations=[[dict(message) for message in messages]],
            tools=tools,  # type: ignore[arg-type]
            chat_template=self._source(tools),
            return_assistant_tokens_mask=True,
            **self._tokenizer.special_tokens_map,
        )
        (text,), (indices,) = result
        marked: list[tuple[int, int]] = [(start, end) for start, end in indices]
        answers = [n for n, message in enumerate(messages) if message.get("role") == "assistant"]
        if len(wanted) == len(answers):
            return Rendered(text, [span for span in marked if span[0] < span[1]])
        if len(marked) != len(answers):
            raise DataError(
                f"the chat template marks {len(marked)} parts as generated, and the dialogue has "
                f"{len(answers)} answers, so it cannot be told which of them are not to be trained"
            )
        by_answer = dict(zip(answers, marked, strict=True))
        return Rendered(text, [by_answer[n] for n in wanted])

    # --- by an outline -------------------------------------------------------------------------------------

    def _by_outline(
        self, text: str, messages: Sequence[Message], tools: Tools, wanted: Sequence[int]
    ) -> list[tuple[int, int]]:
        hidden = _Hidden(messages, text)
        try:
            outline = self._apply(hidden.messages, tools)
        except Exception as error:
            raise _NoFitError from error
        slots = hidden.slots(outline)
        shown = {slot.message for slot in slots}
        for number in {message for message, _ in hidden.words} - shown:
            role = messages[number].get("role")
            say_once(f"the tokenizer's chat template leaves out texts of the role {role!r}")
        position = _aligned(text, outline, slots)
        by_message: dict[int, list[int]] = {}
        for number, slot in enumerate(slots):
            by_message.setdefault(slot.message, []).append(number)
        spans = []
        for message in wanted:
            numbers = by_message.get(message)
            if not numbers or numbers != list(range(numbers[0], numbers[-1] + 1)):
                raise _NoFitError
            first, last = numbers[0], numbers[-1]
            before = slots[first - 1].end if first else 0
            after = slots[last + 1].start if last + 1 < len(slots) else len(outline)
            lead, tail = outline[before : slots[first].start], outline[slots[last].end : after]
            start = before + self._start_in(lead, hidden, message, tools)
            end = slots[last].end + self._end_in(tail, hidden, message, tools, is_last=after == len(outline))
            spans.append((position(start), position(end)))
        return [span for span in spans if span[0] < span[1]]

    def _start_in(self, lead: str, hidden: _Hidden, message: int, tools: Tools) -> int:
        """How much of `lead`, the words before an answer's first text, the generation prompt is."""
        if lead not in self._starts:
            opened = hidden.tail(self._applied(hidden.messages[:message], tools, prompt=True))
            common = _common(opened, lead)
            if common == len(opened):
                self._starts[lead] = common
            else:
                # The prompt goes on, with a mark to think, say, where this answer does not.
                self._starts[lead] = self._last_mark(lead[:common])
        return self._starts[lead]

    def _end_in(self, tail: str, hidden: _Hidden, message: int, tools: Tools, is_last: bool) -> int:
        """How much of `tail`, the words after an answer's last text, belongs to the answer."""
        calls = bool(hidden.messages[message].get("tool_calls"))
        if is_last:
            return self._trained_end(tail, len(tail), calls)
        key: Any = tail
        if calls:
            # The arguments of a call stand in the tail, so only its last words are the same every time.
            key = ("call", hidden.messages[message + 1].get("role"))
            known = self._ends.get(key)
            if known is not None and tail.endswith(known[0]):
                return len(tail) - known[1]
        elif key in self._ends:
            return self._ends[key]
        closed = hidden.tail(self._applied(hidden.messages[: message + 1], tools))
        end = self._trained_end(tail[: _common(closed, tail)], len(closed), calls)
        if key is tail:
            self._ends[key] = end
        else:
            mark = self._last_mark_start(tail[:end])
            self._ends[key] = (tail[mark:], len(tail) - end)
        return end

    def _applied(self, messages: Sequence[Message], tools: Tools, prompt: bool = False) -> str:
        try:
            return self._apply(messages, tools, prompt)
        except Exception as error:
            raise _NoFitError from error

    def _trained_end(self, words: str, whole: int, calls: bool = False) -> int:
        """How much of `words`, which follow an answer's last text, is trained: through the marks that end it.

        After calls of tools these are the last ones, as marks also stand in and between calls. `whole` is the
        length of the words where the dialogue ends there; words cut shorter must show a mark.
        """
        first_marks = self._special_run.search(words)
        if first_marks:
            return self._marks_end(words) if calls else first_marks.end()
        if len(words) != whole:
            raise _NoFitError
        say_once(
            "the chat template puts no special token at the end of an answer: the model does not learn when "
            "to stop"
        )
        return whole

    def _marks_end(self, words: str) -> int:
        return max((match.end() for match in self._special.finditer(words)), default=0)

    def _last_mark(self, words: str) -> int:
        end = self._marks_end(words)
        if not end:
            raise _NoFitError
        return end

    def _last_mark_start(self, words: str) -> int:
        return max((match.start() for match in self._special.finditer(words)), default=0)

    # --- by the beginnings of the dialogue -----------------------------------------------------------------

    def _by_prefixes(
        self, text: str, messages: Sequence[Message], tools: Tools, wanted: Sequence[int]
    ) -> list[tuple[int, int]]:
        spans = []
        for number in wanted:
            try:
                opened = self._applied(messages[:number], tools, prompt=True)
                closed = self._applied(messages[: number + 1], tools)
                start = _common(opened, text)
                if start < len(opened):
                    start = self._last_mark(text[:start])
                whole = _common(closed, text)
                if whole < start:
                    raise _NoFitError
                # Marks also stand in the answer, so of those after it the last one is the one known.
                end = start + self._trained_end(text[start:whole], len(closed) - start, calls=True)
            except _NoFitError:
                raise DataError(
                    f"it cannot be told which part of the text the tokenizer's chat template gives answer "
                    f"messages[{number}]: name a prompt template instead of 'auto'"
                ) from None
            spans.append((start, end))
        return [span for span in spans if span[0] < span[1]]


class _Hidden:
    """A dialogue with a made-up word in place of each of its texts."""

    def __init__(self, messages: Sequence[Message], text: str) -> None:
        self.mark = "Qzx"
        while self.mark in text:
            self.mark += "q"
        self.words: list[tuple[int, str]] = []  # number of the message, its words; by the number of the mark
        self._pattern = re.compile(rf"{self.mark}(\d+)z")
        self.messages = [self._hide(number, message) for number, message in enumerate(messages)]

    def slots(self, outline: str) -> list[_Slot]:
        """Where the made-up words stand in what the template wrote."""
        return [
            _Slot(match.start(), match.end(), *self.words[int(match.group(1))])
            for match in self._pattern.finditer(outline)
        ]

    def tail(self, outline: str) -> str:
        """What the template wrote after the last made-up word."""
        end = max((match.end() for match in self._pattern.finditer(outline)), default=0)
        return outline[end:]

    def _hide(self, number: int, message: Message) -> dict[str, Any]:
        def made_up(words: str) -> str:
            self.words.append((number, words))
            return f"{self.mark}{len(self.words) - 1}z"

        def hide(words: str) -> str:
            # A text, a tag, a text, ...
            parts = _TAGS.split(words)
            parts[::2] = [made_up(part) if part.strip() else part for part in parts[::2]]
            return "".join(parts)

        hidden = dict(message)
        for key in (*_REASONING, "content"):
            if isinstance(hidden.get(key), str):
                hidden[key] = hide(hidden[key])
        if hidden.get("tool_calls"):
            hidden["tool_calls"] = [_with_name(call, made_up) for call in hidden["tool_calls"]]
        return hidden


def _with_name(call: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    function = call.get("function")
    if isinstance(function, Mapping) and isinstance(function.get("name"), str):
        return {**call, "function": {**function, "name": change(function["name"])}}
    return dict(call)


def _aligned(text: str, outline: str, slots: Sequence[_Slot]) -> Callable[[int], int]:
    """Gives, for a position in the outline outside its slots, the one in the text.

    Raises _NoFitError where the two are not the same but for the slots.
    """
    begins = [0, *(slot.end for slot in slots)]
    ends = [*(slot.start for slot in slots), len(outline)]
    at: list[int] = []
    here = 0
    for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        literal = outline[begin:end]
        if number == 0:
            found = 0 if text.startswith(literal) else -1
        else:
            is_last = number == len(slots)
            found = _after_words(text, here, slots[number - 1].words, literal, is_last)
        if found < 0:
            raise _NoFitError
        at.append(found)
        here = found + len(literal)
    if here != len(text):
        raise _NoFitError

    def position(place: int) -> int:
        part = bisect_right(begins, place) - 1
        return at[part] + place - begins[part]

    return position


def _after_words(text: str, here: int, words: str, literal: str, is_last: bool) -> int:
    """Where `literal` begins after `words`, in a form that templates give them, from `here` on; else -1."""
    for form in _forms(words):
        after = here + len(form)
        fits = text.startswith(form, here) and text.startswith(literal, after)
        if fits and (not is_last or after + len(literal) == len(text)):
            return after
    return -1


def _forms(words: str) -> Iterator[str]:
    yield words
    yield words.strip()
    yield words.strip("\n")
    yield words.rstrip()
    yield words.lstrip()
    yield words.rstrip("\n")
    yield words.lstrip("\n")
    yield json.dumps(words, ensure_ascii=False)[1:-1]
    yield json.dumps(words)[1:-1]


def _common(a: str, b: str) -> int:
    """The length of the common beginning of both."""
    if b.startswith(a):
        return len(a)
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[:middle] == b[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _prepared(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages in the form that chat templates expect: arguments of calls as objects."""
    prepared = []
    for message in messages:
        changed = {name: value for name, value in message.items() if value is not None or name == "content"}
        if changed.get("content") is None:
            changed["content"] = ""
        if changed.get("tool_calls"):
            changed["tool_calls"] = [_with_object(call) for call in changed["tool_calls"]]
        prepared.append(changed)
    return prepared


def _with_object(call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or "name" not in function:
        raise DataError(f"a tool call needs function.name: {call!r:.80}")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments)
        except ValueError:
            parsed = None
        arguments = parsed if isinstance(parsed, dict) else arguments
    return {**call, "function": {**function, "arguments": {} if arguments is None else arguments}}


def _system_in_question(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The dialogue with its opening system text at the head of the first question; None where it has none."""
    if len(messages) < 2 or [m.get("role") for m in messages[:2]] != ["system", "user"]:
        return None
    system, question, *rest = messages
    merged = system["content"].rstrip("\n") + "\n\n" + question["content"]
    return [{**question, "content": merged}, *rest]
