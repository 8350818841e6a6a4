"""Find the words of each message in the text that a chat template renders.

    text      <|im_start|>user\\n  Q   <|im_end|>\\n<|im_start|>assistant\\n  A   <|im_end|>\\n
    outline   <|im_start|>user\\nQzx0z<|im_end|>\\n<|im_start|>assistant\\nQzx1z<|im_end|>\\n
    regions                    ^^^^^ message 0                         ^^^^^ message 1

The outline is the conversation rendered with a placeholder instead of each text. It separates the text of the
template from the words of the messages, and must match the text to the last character. If it does not match,
as the template tests or changes the words, the conversation is rendered again for each message with other
words in it: the region of the message is the difference of the two texts.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from xtuner.dataset.map_fns.images import IMAGE_MARK

Message = Mapping[str, Any]
Apply = Callable[..., str]
"""A template: (messages, prompt=False) -> text, ending with the generation prompt if `prompt`."""

# Templates search for these in a text, so they are kept when the text is hidden.
# Images are no words.
TAGS = re.compile(rf"(</?(?:think|thinking|tool_call|tool_response|tools|answer)>|{IMAGE_MARK})")
REASONING = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message with the model's thinking, in the templates' names."""

_MARK = "Qzx"


class NoFitError(Exception):
    """The position of a message in the text is unknown."""


@dataclass(frozen=True)
class Region:
    """Characters `start:end` of a text are words of message number `message`; None: a repeated name."""

    start: int
    end: int
    message: int | None


@dataclass(frozen=True)
class Word:
    """A hidden text of a message; `kind` is "thinking", "text", "call" or "arguments"."""

    message: int
    kind: str
    words: str


class Part(NamedTuple):
    """Words of a message: end of the message before, start and end of the words, start of the next."""

    before: int
    start: int
    end: int
    after: int


@dataclass(frozen=True)
class Reading:
    """A text, its regions in order, and the words of the messages that are not in it."""

    text: str
    regions: list[Region]
    missing: list[Word]

    def parts(self, message: int) -> list[Part]:
        """The parts of a message: several if others are between them, none if it is not written."""
        parts: list[Part] = []
        before = 0
        for number, region in enumerate(self.regions):
            if region.message == message:
                is_last = number + 1 == len(self.regions)
                after = len(self.text) if is_last else self.regions[number + 1].start
                parts.append(Part(before, region.start, region.end, after))
            before = region.end
        return parts

    def tail(self, message: int | None = None) -> str:
        """The template's text after that message, or after the last one written."""
        if message is not None and (parts := self.parts(message)):
            return self.text[parts[-1].end : parts[-1].after]
        return self.text[self.regions[-1].end if self.regions else 0 :]


class Outline:
    """Readings of a conversation, and of others made of its messages, by placeholders."""

    def __init__(self, apply: Apply, messages: Sequence[Message], text: str) -> None:
        self._apply = apply
        self._mark = _MARK
        while self._mark in text:
            self._mark += "q"
        self._pattern = re.compile(rf"{self._mark}(\d+)z")
        self._words: list[Word] = []
        self._messages = [self._hide(number, message) for number, message in enumerate(messages)]
        self._text = text
        self._times: dict[int, int] = {}

    def whole(self) -> Reading:
        """The whole conversation; NoFitError if it does not match its outline."""
        outline = self._read(self._messages, prompt=False)
        slots = self._slots(outline)
        starts = _aligned(self._text, outline, [(a, b, self._words[word].words) for a, b, word in slots])
        written = {word for _, _, word in slots}
        missing = [word for number, word in enumerate(self._words) if number not in written]
        return Reading(self._text, self._regions([(starts(a), starts(b), w) for a, b, w in slots]), missing)

    def missing(self, prompt: bool = False) -> list[Word]:
        """The words that the template does not write; `prompt`: with the generation prompt."""
        written = {word for _, _, word in self._slots(self._read(self._messages, prompt))}
        return [word for number, word in enumerate(self._words) if number not in written]

    def part(self, count: int, *more: Message, prompt: bool = False) -> Reading:
        """The first `count` messages and `more` as an outline."""
        words = list(self._words)
        others = [self._hide(count + number, message) for number, message in enumerate(more)]
        try:
            outline = self._read([*self._messages[:count], *others], prompt=prompt)
            return Reading(outline, self._regions(self._slots(outline)), [])
        finally:
            self._words = words

    def _read(self, messages: Sequence[Message], prompt: bool) -> str:
        try:
            return self._apply(messages, prompt=prompt)
        except Exception as error:  # templates may raise anything
            raise NoFitError from error

    def _regions(self, slots: Sequence[tuple[int, int, int]]) -> list[Region]:
        """One region for neighbouring words of a message.

        The repeated name of a tool, in its result, belongs to no message.
        """
        regions: list[Region] = []
        times: dict[int, int] = {}
        for start, end, word in slots:
            times[word] = times.get(word, 0) + 1
            message = self._words[word].message if times[word] <= self._own_times(word, times[word]) else None
            if regions and regions[-1].message == message:
                start = regions.pop().start
            regions.append(Region(start, end, message))
        return regions

    def _own_times(self, word: int, times: int) -> int:
        """How often the template writes a word within its message."""
        if times == 1 or self._words[word].kind != "call":
            return times
        if word not in self._times:
            outline = self._read(self._messages[: self._words[word].message + 1], prompt=False)
            self._times[word] = sum(found == word for _, _, found in self._slots(outline))
        return self._times[word]

    def _slots(self, outline: str) -> list[tuple[int, int, int]]:
        """Start, end and number of each placeholder."""
        return [(*match.span(), int(match.group(1))) for match in self._pattern.finditer(outline)]

    def _hide(self, number: int, message: Message) -> dict[str, Any]:
        def placeholder(words: str, kind: str) -> str:
            self._words.append(Word(number, kind, words))
            return f"{self._mark}{len(self._words) - 1}z"

        return hide(message, placeholder)


class Difference:
    """Readings by replacing the words of one message at a time."""

    def __init__(self, apply: Apply, messages: Sequence[Message], text: str) -> None:
        self._apply, self._messages, self._text = apply, messages, text

    def whole(self) -> Reading:
        return self._read(self._messages, self._text, False)

    def part(self, count: int, *more: Message, prompt: bool = False) -> Reading:
        messages = [*self._messages[:count], *more]
        try:
            text = self._apply(messages, prompt=prompt)
        except Exception as error:
            raise NoFitError from error
        return self._read(messages, text, prompt)

    def _read(self, messages: Sequence[Message], text: str, prompt: bool) -> Reading:
        regions, missing, end = [], [], 0
        for number, message in enumerate(messages):
            found = self._region(messages, number, text, prompt)
            if found is not None and found[0] < end:
                raise NoFitError
            if found is not None:
                regions.append(Region(*found, number))
                end = found[1]
            elif message.get("content") or message.get("tool_calls"):
                kind = "call" if message.get("tool_calls") else "text"
                missing.append(Word(number, kind, str(message.get("content"))))
        return Reading(text, regions, missing)

    def _region(
        self, messages: Sequence[Message], number: int, text: str, prompt: bool
    ) -> tuple[int, int] | None:
        starts, ends = [], []
        for word in (_MARK, "Jkw"):  # two, as the first letters of one may be those of the message
            changed = _with_word(messages[number], word)
            try:
                other = self._apply([*messages[:number], changed, *messages[number + 1 :]], prompt=prompt)
            except Exception:
                continue
            if other == text:
                return None
            starts.append(common(other, text))
            ends.append(len(text) - common(other[starts[-1] :][::-1], text[starts[-1] :][::-1]))
        return (min(starts), max(ends)) if starts else None


def _with_word(message: Message, word: str) -> dict[str, Any]:
    """The message with each of its texts, and the arguments of its calls, replaced by `word`."""
    changed = hide(message, lambda words, kind: word)
    for call in changed.get("tool_calls", ()):
        is_text = isinstance(call["function"].get("arguments"), str)
        call["function"]["arguments"] = json.dumps({word: word}) if is_text else {word: word}
    return changed


def hide(message: Message, placeholder: Callable[[str, str], str]) -> dict[str, Any]:
    """The message with each of its texts replaced by `placeholder(words, kind)`."""
    is_answer = message.get("role") == "assistant"
    hidden = dict(message)
    names: dict[str, str] = {}  # the same thinking may be in several fields
    for key in REASONING:
        if isinstance(thought := hidden.get(key), str) and thought.strip():
            hidden[key] = names[thought] = names.get(thought) or placeholder(thought, "thinking")
    content = hidden.get("content")
    if isinstance(content, str):
        if is_answer and not content.strip() and not message.get("tool_calls"):
            hidden["content"] = placeholder(content, "text")  # the end of an empty answer is supervised too
        else:
            hidden["content"] = _hide_between_tags(content, placeholder)
    if hidden.get("tool_calls"):
        hidden["tool_calls"] = [_hide_call(call, placeholder) for call in hidden["tool_calls"]]
    return hidden


def _hide_between_tags(content: str, placeholder: Callable[[str, str], str]) -> str:
    # A text, a tag, a text, ...
    parts = TAGS.split(content)
    for number in range(0, len(parts), 2):
        is_thinking = any(parts[number + 1 : number + 2] == [f"</{tag}>"] for tag in ("think", "thinking"))
        if core := parts[number].strip():
            # White space around the words is kept, as templates may strip it.
            kind = "thinking" if is_thinking else "text"
            parts[number] = parts[number].replace(core, placeholder(core, kind), 1)
    return "".join(parts)


def _hide_call(call: Message, placeholder: Callable[[str, str], str]) -> dict[str, Any]:
    function, name = call["function"], placeholder(call["function"]["name"], "call")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.dumps(_hide_texts(json.loads(arguments), placeholder), ensure_ascii=False)
        except ValueError:  # not JSON
            arguments = function["arguments"]
    else:
        arguments = _hide_texts(arguments, placeholder)
    return {**call, "function": {**function, "name": name, "arguments": arguments}}


def _hide_texts(value: Any, placeholder: Callable[[str, str], str]) -> Any:
    """The arguments of a call with placeholders instead of all texts."""
    if isinstance(value, Mapping):
        return {key: _hide_texts(inner, placeholder) for key, inner in value.items()}
    if isinstance(value, list):
        return [_hide_texts(inner, placeholder) for inner in value]
    return placeholder(value, "arguments") if isinstance(value, str) and value.strip() else value


def _aligned(text: str, outline: str, slots: Sequence[tuple[int, int, str]]) -> Callable[[int], int]:
    """A function from the start or end of a slot in the outline to its position in the text.

    Raises NoFitError if they differ in more than the words in the slots.
    """
    begins = [0, *(end for _, end, _ in slots)]
    ends = [*(start for start, _, _ in slots), len(outline)]
    at: list[int] = []
    here = 0
    for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        literal = outline[begin:end]
        if number == 0:
            found = 0 if text.startswith(literal) else -1
        else:
            is_last = number == len(slots)
            found = _after_words(text, here, slots[number - 1][2], literal, is_last)
        if found < 0:
            raise NoFitError
        at.append(found)
        here = found + len(literal)
    if here != len(text):
        raise NoFitError

    def position(in_outline: int) -> int:
        part = bisect_right(begins, in_outline) - 1
        return at[part] + in_outline - begins[part]

    return position


def _after_words(text: str, here: int, words: str, literal: str, is_last: bool) -> int:
    """The start of `literal` after `words` (in any form that templates write) at `here`; -1 if none."""
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


def common(a: str, b: str) -> int:
    """The length of the common prefix."""
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
