"""Where the words of each message stand in the text that a chat template made of them.

    text      <|im_start|>user\\n  Q   <|im_end|>\\n<|im_start|>assistant\\n  A   <|im_end|>\\n
    outline   <|im_start|>user\\nQzx0z<|im_end|>\\n<|im_start|>assistant\\nQzx1z<|im_end|>\\n
    regions                    ^^^^^ message 0                         ^^^^^ message 1

The outline is the dialogue rendered with a made-up word in place of each text. It shows what the template
wrote and what came from the messages, whatever stands in them, and must fit the text to the last character.
A dialogue that does not fit its outline, as the template looks into its words or changes them, is rendered
once more for each message with other words in it: the region is where the two texts differ.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Message = Mapping[str, Any]
Apply = Callable[..., str]
"""A template: (messages, prompt=False) -> text, with what opens an answer at its end if `prompt`."""

# Templates look for these inside a text, so they stay as they are when the text is hidden.
TAGS = re.compile(r"(</?(?:think|thinking|tool_call|tool_response|tools|answer)>)")
REASONING = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message with what the model thought, as templates name them."""

_MARK = "Qzx"


class NoFitError(Exception):
    """The position of a message is unknown."""


@dataclass(frozen=True)
class Region:
    """Characters `start:end` of a text are words of message number `message`; None: a name said again."""

    start: int
    end: int
    message: int | None


@dataclass(frozen=True)
class Word:
    """A text of a message that was hidden; `kind` is "thinking", "text", "call" or "arguments"."""

    message: int
    kind: str
    words: str


class Part(NamedTuple):
    """Words of a message: where the message before them ends, they begin and end, and the next begins."""

    before: int
    start: int
    end: int
    after: int


@dataclass(frozen=True)
class Reading:
    """A text, its regions in order, and what of the messages is not in it."""

    text: str
    regions: list[Region]
    missing: list[Word]

    def parts(self, message: int) -> list[Part]:
        """The parts of a message: one, several with others between, or none where it is not shown."""
        found: list[Part] = []
        before = 0
        for number, region in enumerate(self.regions):
            if region.message == message:
                is_last = number + 1 == len(self.regions)
                after = len(self.text) if is_last else self.regions[number + 1].start
                found.append(Part(before, region.start, region.end, after))
            before = region.end
        return found

    def tail(self, message: int | None = None) -> str:
        """The template's words after that message, or after the last one shown."""
        if message is not None and (parts := self.parts(message)):
            return self.text[parts[-1].end : parts[-1].after]
        return self.text[self.regions[-1].end if self.regions else 0 :]


class Outline:
    """Readings of a dialogue, and of others made of its messages, by made-up words."""

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
        """The dialogue itself; NoFitError where it does not fit its outline."""
        outline = self._read(self._messages, prompt=False)
        slots = self._slots(outline)
        starts = _aligned(self._text, outline, [(a, b, self._words[word].words) for a, b, word in slots])
        shown = {word for _, _, word in slots}
        missing = [word for number, word in enumerate(self._words) if number not in shown]
        return Reading(self._text, self._regions([(starts(a), starts(b), w) for a, b, w in slots]), missing)

    def missing(self, prompt: bool = False) -> list[Word]:
        """The words that the template does not write, with what opens an answer at its end if `prompt`."""
        shown = {word for _, _, word in self._slots(self._read(self._messages, prompt))}
        return [word for number, word in enumerate(self._words) if number not in shown]

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
        except Exception as error:  # templates raise errors of their own
            raise NoFitError from error

    def _regions(self, slots: Sequence[tuple[int, int, int]]) -> list[Region]:
        """One region for neighbouring words of a message.

        The name of a tool may come again where its result tells whose it is: that is nobody's.
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
        """How often the template writes a word within its own message."""
        if times == 1 or self._words[word].kind != "call":
            return times
        if word not in self._times:
            until = self._read(self._messages[: self._words[word].message + 1], prompt=False)
            self._times[word] = sum(found == word for _, _, found in self._slots(until))
        return self._times[word]

    def _slots(self, outline: str) -> list[tuple[int, int, int]]:
        """Start, end and number of each made-up word."""
        return [(*match.span(), int(match.group(1))) for match in self._pattern.finditer(outline)]

    def _hide(self, number: int, message: Message) -> dict[str, Any]:
        def made_up(words: str, kind: str) -> str:
            self._words.append(Word(number, kind, words))
            return f"{self._mark}{len(self._words) - 1}z"

        return hide(message, made_up)


class Difference:
    """Readings by other words in the place of a message's own."""

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
    """The message with that word in place of each of its texts, and as the arguments of its calls."""
    changed = hide(message, lambda words, kind: word)
    for call in changed.get("tool_calls", ()):
        is_text = isinstance(call["function"].get("arguments"), str)
        call["function"]["arguments"] = json.dumps({word: word}) if is_text else {word: word}
    return changed


def hide(message: Message, made_up: Callable[[str, str], str]) -> dict[str, Any]:
    """The message with `made_up(words, kind)` in place of each of its texts."""
    is_answer = message.get("role") == "assistant"
    hidden = dict(message)
    names: dict[str, str] = {}  # the same thinking may stand under several names
    for key in REASONING:
        if isinstance(thought := hidden.get(key), str) and thought.strip():
            hidden[key] = names[thought] = names.get(thought) or made_up(thought, "thinking")
    content = hidden.get("content")
    if isinstance(content, str):
        if is_answer and not content.strip() and not message.get("tool_calls"):
            hidden["content"] = made_up(content, "text")  # even of an empty answer the end is trained
        else:
            hidden["content"] = _hide_between_tags(content, made_up)
    if hidden.get("tool_calls"):
        hidden["tool_calls"] = [_hide_call(call, made_up) for call in hidden["tool_calls"]]
    return hidden


def _hide_between_tags(content: str, made_up: Callable[[str, str], str]) -> str:
    # A text, a tag, a text, ...
    parts = TAGS.split(content)
    for number in range(0, len(parts), 2):
        thinks = any(parts[number + 1 : number + 2] == [f"</{tag}>"] for tag in ("think", "thinking"))
        if core := parts[number].strip():
            # White space around the words stays where it is, as templates cut it off.
            parts[number] = parts[number].replace(core, made_up(core, "thinking" if thinks else "text"), 1)
    return "".join(parts)


def _hide_call(call: Message, made_up: Callable[[str, str], str]) -> dict[str, Any]:
    function, name = call["function"], made_up(call["function"]["name"], "call")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.dumps(_hide_texts(json.loads(arguments), made_up), ensure_ascii=False)
        except ValueError:  # no JSON: it stays
            arguments = function["arguments"]
    else:
        arguments = _hide_texts(arguments, made_up)
    return {**call, "function": {**function, "name": name, "arguments": arguments}}


def _hide_texts(value: Any, made_up: Callable[[str, str], str]) -> Any:
    """The arguments of a call with made-up words in place of all texts in them."""
    if isinstance(value, Mapping):
        return {key: _hide_texts(inner, made_up) for key, inner in value.items()}
    if isinstance(value, list):
        return [_hide_texts(inner, made_up) for inner in value]
    return made_up(value, "arguments") if isinstance(value, str) and value.strip() else value


def _aligned(text: str, outline: str, slots: Sequence[tuple[int, int, str]]) -> Callable[[int], int]:
    """Gives, for the start or end of a slot in the outline, the place in the text.

    Raises NoFitError where the two are not the same but for the words in the slots.
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


def common(a: str, b: str) -> int:
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
