"""Where answers begin and end inside the words that a chat template writes around them.

    tail of the question    <|im_end|>\\n<|im_start|>assistant\\n          the last of it opens the answer
    answer                  A
    tail of the answer      <|im_end|>\\n<|im_start|>user\\n              the first of it ends the answer

What opens an answer is what the template writes where an answer is asked for. What ends it is what stands
there whether the dialogue goes on or not, through its mark: a special token. Where the two ends differ, as
gpt-oss has one mark for the last answer and another for those before, it is the first mark that stands there.
Where nothing stands at the end, as in GLM's dialogues, a model stops with the mark of the next speaker: that
mark is trained, and added after the last answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from xtuner.dataset.encoding.outline import TAGS, Difference, Message, NoFitError, Outline, Reading, common
from xtuner.log import say_once

Source = Outline | Difference

# What is one word of a template, and never cut in two: <|channel|>, <think>, [TOOL_CALLS].
_BRACKETS = r"</?[^<>\s]{1,40}>|\[/?[A-Z_]{2,30}\]"


class AnswerEnds:
    """What is learnt of one tokenizer's chat template."""

    def __init__(self, tokenizer: Any) -> None:
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        words = {str(token) for token in added if getattr(token, "special", False)}
        words |= {word for word in getattr(tokenizer, "all_special_tokens", []) if word}
        # Marks of thinking and of tools, which some tokenizers also call special, end no turn.
        longest_first = sorted((word for word in words if not TAGS.fullmatch(word)), key=len, reverse=True)
        self._mark = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._run = re.compile(f"(?:{self._mark.pattern})+")
        self._atom = re.compile(f"{self._mark.pattern}|{_BRACKETS}")
        self._eos = getattr(tokenizer, "eos_token", None)
        self._asked: str | None = None  # what opens an answer to a question
        self._starts: dict[str, int] = {}  # words before an answer -> how many of them come before its span
        self._stops: dict[Any, Any] = {}  # words after an answer -> how many of them belong to its span

    def first_mark(self, words: str) -> str:
        """The first special token in `words`, empty where there is none."""
        match = self._mark.search(words)
        return match.group() if match else ""

    def prompt_after(self, text: str) -> str:
        """What the template writes after the end of `text` where an answer is asked for."""
        beginning = next(filter(text.endswith, self._beginnings(self._asked or "")), None)
        return "" if beginning is None or self._asked is None else self._asked[len(beginning) :]

    def spans(
        self, reading: Reading, source: Source, messages: Sequence[Message], wanted: Sequence[int]
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text, with the mark of the next speaker where that ends the last answer, and the spans."""
        text, spans = reading.text, []
        for number in wanted:
            parts = reading.parts(number)
            for part in parts:
                lead, tail = text[part.before : part.start], reading.text[part.end : part.after]
                if part is parts[0]:
                    start = self._start(lead, source, messages, number)
                else:
                    start = max((match.end() for match in self._mark.finditer(lead)), default=0)
                more = ""
                calls = bool(messages[number].get("tool_calls")) and len(parts) == 1
                if part is not parts[-1]:
                    stop = self._call_stop(tail, source, messages, number)
                elif part.after < len(reading.text):
                    stop = self._inner_stop(tail, source, messages, number, calls)
                else:
                    stop, more = self._last_stop(tail, source, messages, number, calls)
                text += more
                spans.append((part.before + start, part.end + stop))
        return text, [span for span in spans if span[0] < span[1]]

    # --- beginnings ----------------------------------------------------------------------------------------

    def _start(self, lead: str, source: Source, messages: Sequence[Message], number: int) -> int:
        """How much of `lead`, the words before an answer's first text, the generation prompt is."""
        if lead not in self._starts:
            follows_answer = number > 0 and messages[number - 1]["role"] == "assistant"
            self._starts[lead] = self._find_start(lead, source, number, follows_answer)
        return self._starts[lead]

    def _find_start(self, lead: str, source: Source, number: int, follows_answer: bool) -> int:
        asked = self._ask(source)
        opened = self._tail(source, number, prompt=True)
        if opened is not None and lead.startswith(opened):
            rest = lead[len(opened) :]
            # Some templates ask for no answer to the result of a tool.
            if not any(prompt in rest for prompt in self._beginnings(asked)):
                return len(opened)
        # The words differ where the message before is the last one, or the prompt opens thinking, say.
        for prompt in self._beginnings(asked):
            if (at := lead.rfind(prompt)) >= 0:
                return at + len(prompt)
        if follows_answer and not self._mark.search(lead):
            return 0  # the template goes on with the answer before
        shared = self._whole(lead, common(opened or "", lead))
        if self._mark.search(lead, shared) and not self._mark.search(lead[:shared]):
            raise NoFitError
        return shared

    def _tail(self, source: Source, count: int, prompt: bool = False) -> str | None:
        """What ends a dialogue of the first `count` messages; None where the template takes no such one."""
        try:
            return source.part(count, prompt=prompt).tail()
        except NoFitError:
            return None

    def _ask(self, source: Source) -> str:
        """What the template writes where an answer is asked for; empty where it always writes that."""
        if self._asked is None:
            question = {"role": "user", "content": "Q"}
            closed, opened = (source.part(0, question, prompt=prompt).tail() for prompt in (False, True))
            self._asked = opened[self._whole(opened, common(closed, opened)) :]
        return self._asked

    def _beginnings(self, prompt: str) -> Iterator[str]:
        """The prompt, and its parts before each mark in it, longest first."""
        if prompt:
            yield prompt
        for match in reversed(list(self._atom.finditer(prompt))):
            if match.start():
                yield prompt[: match.start()]

    # --- ends ----------------------------------------------------------------------------------------------

    def _inner_stop(
        self, tail: str, source: Source, messages: Sequence[Message], number: int, calls: bool
    ) -> int:
        """How much of `tail`, the words after an answer or its calls with others after it, is trained."""
        # The arguments of a call stand in the tail, so only its last words are the same every time.
        key: Any = ("call", messages[number + 1].get("role")) if calls else tail
        if (known := self._known(key, tail)) is not None:
            return known
        closed = self._tail(source, number + 1)
        if closed is None and calls:
            raise NoFitError
        shared = self._whole(tail, len(tail) if closed is None else common(closed, tail))
        stop = self._stop_in(tail[:shared], source, calls)
        if not stop:
            if messages[number + 1]["role"] == "assistant":
                # Of answers in a row those before the last end with what would stand before a question too.
                shared = self._whole(tail, common(self._going_on(source, messages, number), tail))
                stop = self._stop_in(tail[:shared], source, calls)
            # The end of a call may differ in all of its words, and its first mark is not far.
            elif match := self._mark.search(tail, shared) if calls else self._mark_after(tail, shared):
                stop = match.end()
            else:
                _say_that_nothing_stops()
                stop = shared
        self._learn(key, tail, stop)
        return stop

    def _call_stop(self, tail: str, source: Source, messages: Sequence[Message], number: int) -> int:
        """How much of `tail`, the words after calls, is trained if the answer's text follows results."""
        closed = source.part(number, {**messages[number], "content": ""}).tail()
        return self._stop_in(tail[: self._whole(tail, common(closed, tail))], source, calls=True)

    def _last_stop(
        self, tail: str, source: Source, messages: Sequence[Message], number: int, calls: bool
    ) -> tuple[int, str]:
        """How much of `tail`, the words after the last answer, is trained, and what must be added to it."""
        key: Any = ("last call",) if calls else ("last", tail)
        if (known := self._known(key, tail)) is not None:
            return known, ""
        run = self._run.search(tail)
        if run and not calls and self._mark.fullmatch(run.group()):
            return run.end(), ""
        going_on = self._going_on(source, messages, number)
        shared = self._whole(tail, common(going_on, tail))
        stop = self._stop_in(tail[:shared], source, calls)
        if not stop and (match := self._mark_after(tail, shared)) and not self._opens(match, source):
            stop = match.end()
        if stop:
            self._learn(key, tail, stop)
            return stop, ""
        match = self._mark_after(going_on, shared)
        if match is None or not going_on.startswith(tail):
            _say_that_nothing_stops()
            run = self._run.search(tail)
            return min(shared if going_on else len(tail), run.start() if run else len(tail)), ""
        return match.end(), going_on[len(tail) : match.end()]

    def _going_on(self, source: Source, messages: Sequence[Message], number: int) -> str:
        """What would stand after the last answer if a question, or the results of its calls, came next."""
        role = next((m["role"] for m in messages if m["role"] not in ("system", "user", "assistant")), "tool")
        results = [
            {"role": role, "content": "Q", "tool_call_id": call.get("id"), "name": call["function"]["name"]}
            for call in messages[number].get("tool_calls", ())
        ]
        for more in filter(None, (results, [{"role": "user", "content": "Q"}])):
            try:
                return source.part(number + 1, *more).tail(number)
            except NoFitError:
                continue
        return ""

    def _stop_in(self, shared: str, source: Source, calls: bool) -> int:
        """How much of `shared` is trained: through the marks that end it; 0 where it has none.

        These are the first ones that stand together, and after calls of tools the last ones, as marks also
        stand in and between calls; but none after the end of the sequence, nor one that opens an answer.
        """
        run = self._run.search(shared)
        if run is None:
            return 0
        stop = 0
        for match in self._mark.finditer(shared, run.start(), len(shared) if calls else run.end()):
            if (stop or calls) and self._opens(match, source):
                break
            stop = match.end()
            if match.group() == self._eos:
                break
        return stop

    def _mark_after(self, words: str, place: int) -> re.Match[str] | None:
        """The mark that stands there, after white space at most."""
        match = self._mark.search(words, place)
        return match if match and not words[place : match.start()].strip() else None

    def _opens(self, match: re.Match[str], source: Source) -> bool:
        """Whether it is the mark with which the template asks for an answer."""
        first = self._mark.match(self._ask(source).lstrip())
        return first is not None and match.group() == first.group() != self._eos

    def _known(self, key: Any, tail: str) -> int | None:
        words, rest = self._stops.get(key, (None, 0))
        return len(tail) - rest if words is not None and tail.endswith(words) else None

    def _learn(self, key: Any, tail: str, stop: int) -> None:
        mark = max((match.start() for match in self._mark.finditer(tail[:stop])), default=0)
        self._stops[key] = (tail[mark:], len(tail) - stop)

    def _whole(self, words: str, cut: int) -> int:
        """The place at or before `cut` that lies inside no mark of `words`."""
        for match in self._atom.finditer(words):
            if match.start() < cut < match.end():
                return match.start()
        return cut


def _say_that_nothing_stops() -> None:
    say_once(
        "the chat template puts no special token at the end of an answer: the model does not learn when to "
        "stop"
    )
