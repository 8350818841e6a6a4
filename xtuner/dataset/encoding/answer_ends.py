"""Find the beginning and end of answers in the text that a chat template writes around them.

    tail of the question    <|im_end|>\\n<|im_start|>assistant\\n          ends with the generation prompt
    answer                  A
    tail of the answer      <|im_end|>\\n<|im_start|>user\\n              begins with the end of the answer

The generation prompt opens an answer. It ends with the text that is the same whether the conversation
continues or not, through its mark: a special token. If the two tails differ, as gpt-oss has one mark for the
last answer and another for earlier ones, it ends with the first mark. If there is no end, as with GLM, a
model stops with the mark of the next speaker: that mark is supervised, and added after the last answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from xtuner.dataset.encoding.outline import TAGS, Difference, Message, NoFitError, Outline, Reading, common
from xtuner.log import say_once

Source = Outline | Difference

# Words of a template that are never split: <|channel|>, <think>, [TOOL_CALLS].
_BRACKETS = r"</?[^<>\s]{1,40}>|\[/?[A-Z_]{2,30}\]"


class AnswerEnds:
    """The beginnings and ends of answers of one tokenizer's chat template; results are cached."""

    def __init__(self, tokenizer: Any) -> None:
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        words = {str(token) for token in added if getattr(token, "special", False)}
        words |= {word for word in getattr(tokenizer, "all_special_tokens", []) if word}
        # Marks of thinking and tools, special tokens in some tokenizers, do not end a turn.
        longest_first = sorted((word for word in words if not TAGS.fullmatch(word)), key=len, reverse=True)
        self._mark = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._run = re.compile(f"(?:{self._mark.pattern})+")
        self._atom = re.compile(f"{self._mark.pattern}|{_BRACKETS}")
        self._eos = getattr(tokenizer, "eos_token", None)
        self._generation_prompt: str | None = None
        self._starts: dict[str, int] = {}  # text before an answer -> its length before the span
        self._stops: dict[Any, Any] = {}  # text after an answer -> its length in the span

    def first_mark(self, words: str) -> str:
        """The first special token in `words`, or an empty text if there is none."""
        match = self._mark.search(words)
        return match.group() if match else ""

    def prompt_after(self, text: str) -> str:
        """The part of the generation prompt that follows the end of `text`."""
        beginning = next(filter(text.endswith, self._beginnings(self._generation_prompt or "")), None)
        return (
            ""
            if beginning is None or self._generation_prompt is None
            else self._generation_prompt[len(beginning) :]
        )

    def spans(
        self, reading: Reading, source: Source, messages: Sequence[Message], supervised: Sequence[int]
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text, with the mark of the next speaker added if it ends the last answer, and the spans."""
        text, spans = reading.text, []
        for number in supervised:
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
        """The length of the generation prompt in `lead`, the text before an answer's first words."""
        if lead not in self._starts:
            follows_answer = number > 0 and messages[number - 1]["role"] == "assistant"
            self._starts[lead] = self._find_start(lead, source, number, follows_answer)
        return self._starts[lead]

    def _find_start(self, lead: str, source: Source, number: int, follows_answer: bool) -> int:
        generation_prompt = self._ask(source)
        opened = self._tail(source, number, prompt=True)
        if opened is not None and lead.startswith(opened):
            rest = lead[len(opened) :]
            # Some templates have no generation prompt after the result of a tool.
            if not any(prompt in rest for prompt in self._beginnings(generation_prompt)):
                return len(opened)
        # The tail differs if the message before is the last one, or if the prompt opens thinking.
        for prompt in self._beginnings(generation_prompt):
            if (at := lead.rfind(prompt)) >= 0:
                return at + len(prompt)
        if follows_answer and not self._mark.search(lead):
            return 0  # the template continues the answer before
        shared = self._whole(lead, common(opened or "", lead))
        if self._mark.search(lead, shared) and not self._mark.search(lead[:shared]):
            raise NoFitError
        return shared

    def _tail(self, source: Source, count: int, prompt: bool = False) -> str | None:
        """The text after the first `count` messages; None if the template does not accept them."""
        try:
            return source.part(count, prompt=prompt).tail()
        except NoFitError:
            return None

    def _ask(self, source: Source) -> str:
        """The generation prompt after a question; empty if the template always writes it."""
        if self._generation_prompt is None:
            question = {"role": "user", "content": "Q"}
            closed, opened = (source.part(0, question, prompt=prompt).tail() for prompt in (False, True))
            self._generation_prompt = opened[self._whole(opened, common(closed, opened)) :]
        return self._generation_prompt

    def _beginnings(self, prompt: str) -> Iterator[str]:
        """The prompt and its beginnings before each mark, longest first."""
        if prompt:
            yield prompt
        for match in reversed(list(self._atom.finditer(prompt))):
            if match.start():
                yield prompt[: match.start()]

    # --- ends ----------------------------------------------------------------------------------------------

    def _inner_stop(
        self, tail: str, source: Source, messages: Sequence[Message], number: int, calls: bool
    ) -> int:
        """The supervised length of `tail`, the text after an answer or its calls that is not the last."""
        # The arguments of a call are in the tail, so only its last words are constant.
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
                # Consecutive answers before the last end with the text that also precedes a question.
                shared = self._whole(tail, common(self._continuation(source, messages, number), tail))
                stop = self._stop_in(tail[:shared], source, calls)
            # The end of a call may differ in all words, but has its mark nearby.
            elif match := self._mark.search(tail, shared) if calls else self._mark_after(tail, shared):
                stop = match.end()
            else:
                _log_missing_end()
                stop = shared
        self._learn(key, tail, stop)
        return stop

    def _call_stop(self, tail: str, source: Source, messages: Sequence[Message], number: int) -> int:
        """The supervised length of `tail`, the text after calls, if the answer's text follows the results."""
        closed = source.part(number, {**messages[number], "content": ""}).tail()
        return self._stop_in(tail[: self._whole(tail, common(closed, tail))], source, calls=True)

    def _last_stop(
        self, tail: str, source: Source, messages: Sequence[Message], number: int, calls: bool
    ) -> tuple[int, str]:
        """The supervised length of `tail`, the text after the last answer, and the text to add to it."""
        key: Any = ("last call",) if calls else ("last", tail)
        if (known := self._known(key, tail)) is not None:
            return known, ""
        run = self._run.search(tail)
        if run and not calls and self._mark.fullmatch(run.group()):
            return run.end(), ""
        continuation = self._continuation(source, messages, number)
        shared = self._whole(tail, common(continuation, tail))
        stop = self._stop_in(tail[:shared], source, calls)
        if not stop and (match := self._mark_after(tail, shared)) and not self._opens(match, source):
            stop = match.end()
        if stop:
            self._learn(key, tail, stop)
            return stop, ""
        match = self._mark_after(continuation, shared)
        if match is None or not continuation.startswith(tail):
            _log_missing_end()
            run = self._run.search(tail)
            return min(shared if continuation else len(tail), run.start() if run else len(tail)), ""
        return match.end(), continuation[len(tail) : match.end()]

    def _continuation(self, source: Source, messages: Sequence[Message], number: int) -> str:
        """The text after the last answer if a question, or the results of its calls, followed."""
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
        """The supervised length of `shared`: through the marks that end it; 0 if it has none.

        These are the first adjacent marks, or after calls of tools the last marks, as marks are also in and
        between calls; but none after the end-of-sequence token, and none that opens an answer.
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

    def _mark_after(self, words: str, start: int) -> re.Match[str] | None:
        """The mark at `start`, or after white space."""
        match = self._mark.search(words, start)
        return match if match and not words[start : match.start()].strip() else None

    def _opens(self, match: re.Match[str], source: Source) -> bool:
        """Whether it is the first mark of the generation prompt."""
        first = self._mark.match(self._ask(source).lstrip())
        return first is not None and match.group() == first.group() != self._eos

    def _known(self, key: Any, tail: str) -> int | None:
        words, rest = self._stops.get(key, (None, 0))
        return len(tail) - rest if words is not None and tail.endswith(words) else None

    def _learn(self, key: Any, tail: str, stop: int) -> None:
        mark = max((match.start() for match in self._mark.finditer(tail[:stop])), default=0)
        self._stops[key] = (tail[mark:], len(tail) - stop)

    def _whole(self, words: str, cut: int) -> int:
        """The last position up to `cut` that is not inside a mark of `words`."""
        for match in self._atom.finditer(words):
            if match.start() < cut < match.end():
                return match.start()
        return cut


def _log_missing_end() -> None:
    say_once(
        "the chat template puts no special token at the end of an answer: the model does not learn when to "
        "stop"
    )
