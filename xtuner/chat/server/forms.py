"""Answers of a form that is asked for: the tokens that may come next, by llguidance.

    response_format json_schema     {"name": "Ann", "age": 7}                         of that schema
    tool_choice required, named     <tool_call>\\n{"name": "add", "arguments": {...}}\\n</tool_call>
    strict tools                    any text, but calls in it have arguments of their schema

Calls stand between marks where the model's template knows these, else a call is the whole answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from xtuner.errors import DataError, ModelError, XTunerError

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
# One line, as most models write JSON: free whitespace could go on without end.
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


@dataclass(frozen=True)
class CallForm:
    """A function that may be called; a schema that is not `strict` is kept as far as that can be done."""

    name: str
    schema: Mapping[str, Any] | None = None
    strict: bool = False


@dataclass(frozen=True)
class Wanted:
    """What an answer may be: JSON of a schema (any text where it is None), or calls, or calls alone."""

    schema: Mapping[str, Any] | None = None
    strict: bool = True
    calls: Sequence[CallForm] = ()
    must_call: bool = False
    several: bool = True
    marked: bool = True
    arguments: str = "arguments"  # what a call has them under


class UnavailableError(XTunerError):
    """Answers of a given form are not to be had here."""


class Form:
    """A form that answers can take; `start` begins one."""

    def __init__(self, matcher: Any, ends: Sequence[int], notes: Sequence[str] = ()) -> None:
        self._matcher = matcher
        self._ends = ends
        self.notes = list(notes)  # parts of a schema that are not enforced

    def start(self) -> Mask:
        """The mask of one more answer."""
        return Mask(self._matcher.deep_copy(), self._ends)


class Mask:
    """Leaves those tokens that the form of one answer allows."""

    def __init__(self, matcher: Any, ends: Sequence[int]) -> None:
        self._matcher = matcher
        self._ends = ends

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """`logits` [vocabulary], of which what may not come next is minus infinity."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed = np.zeros(len(logits), bool)
        found = np.unpackbits(bits, bitorder="little")[: len(logits)]
        allowed[: len(found)] = found
        # The matcher knows the first of the tokens that end an answer; where that may come, all may.
        if allowed[self._ends[0]]:
            allowed[list(self._ends)] = True
        return logits.masked_fill(~torch.from_numpy(allowed).to(logits.device), float("-inf"))

    def push(self, token: int) -> None:
        """Go on after `token`."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ModelError(f"the form of the answer cannot be kept: {_reason(self._matcher.get_error())}")


class Forms:
    """Makes forms for one tokenizer and a vocabulary of `num_tokens`."""

    def __init__(self, tokenizer: Any, num_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._num_tokens = max(num_tokens, len(tokenizer))
        self._known = lru_cache(maxsize=4)(self._with_end)

    def make(self, wanted: Wanted, ends: Sequence[int]) -> Form:
        """The form of answers that end with one of `ends`; DataError for a schema that cannot be kept."""
        if not ends:
            raise UnavailableError(
                "answers of a given form need a token that ends them, and the model has none"
            )
        known = self._known(ends[0])
        from llguidance import LLMatcher

        grammar = self._grammar(wanted, frozenset(ends))
        failed, notes = LLMatcher.validate_grammar_with_warnings(grammar, known)
        if failed:
            raise DataError(f"this schema cannot be kept: {_reason(notes[0])}")
        matcher = LLMatcher(known, grammar, log_level=0)
        if matcher.is_error():
            raise DataError(f"this schema cannot be kept: {_reason(matcher.get_error())}")
        # What is too wide to be followed fails here, where nobody else waits for it.
        first = matcher.deep_copy()
        first.compute_bitmask()
        if first.is_error():
            raise DataError(f"this schema cannot be kept: {_reason(first.get_error())}")
        return Form(matcher, ends, list(map(_reason, notes)))

    def _with_end(self, end: int) -> Any:
        try:
            from llguidance.hf import from_tokenizer
        except ImportError as error:
            raise UnavailableError(
                "answers of a given form need the package llguidance on the server, the extra 'structured'"
            ) from error
        if not self._tokenizer.is_fast:
            raise UnavailableError("answers of a given form need a fast tokenizer, and the model's is slow")
        return from_tokenizer(self._tokenizer, n_vocab=self._num_tokens, eos_token=end)

    def _grammar(self, wanted: Wanted, ends: frozenset[int]) -> str:
        rules: list[str] = []
        names = []
        for number, call in enumerate(wanted.calls):
            name = json.dumps(call.name, ensure_ascii=False)
            head = json.dumps(f'{{"name": {name}, "{wanted.arguments}": ')
            schema = _json({**_ANY_OBJECT, **(call.schema or {})}, call.strict)
            rules += [f'call_{number}: {head} arguments_{number} "}}"', f"arguments_{number}: {schema}"]
            names.append(f"call_{number}")
        if names:
            rules.append(f"call: {' | '.join(names)}")
        if wanted.schema is not None:
            rules.append(f"answer: {_json(wanted.schema, wanted.strict)}")
        starts = ["answer"] if wanted.schema is not None else []
        if wanted.calls and (wanted.must_call or wanted.schema is not None):
            starts.append("calls")
            rules += self._calls_alone(wanted)
        elif wanted.calls:
            starts.append("free")
            rules += self._calls_in_text(ends)
        return "\n".join([f"start: {' | '.join(starts)}", *rules])

    def _calls_alone(self, wanted: Wanted) -> list[str]:
        if not wanted.marked:
            return ["calls: call"]
        one = f'{self._mark(_OPEN)} "\\n" call "\\n" {self._mark(_CLOSE)}'
        return [f"marked: {one}", 'calls: marked ("\\n" marked)*' if wanted.several else "calls: marked"]

    def _calls_in_text(self, ends: frozenset[int]) -> list[str]:
        # A text of letters has no control tokens, which a model may well use, to think say.
        opening = self._single(_OPEN)
        others = [i for i in self._tokenizer.added_tokens_decoder if i not in ends and i != opening]
        other = f"<[{','.join(map(str, others))}]>" if others else "TEXT"
        rules = ["TEXT: /(.|\\n)+/", f"other: {other}"]
        rest = f'"\\n" call "\\n" {self._mark(_CLOSE)}'
        if opening is not None:
            return [*rules, "free: (TEXT | other | marked)*", f"marked: {self._mark(_OPEN)} {rest}"]
        return [
            *rules,
            "free: (other | marked)* last?",
            "last: TEXT (other TEXT?)*",
            f"marked: before {rest}",
            f"before[lazy]: /(.|\\n)*{_OPEN}/",
        ]

    def _single(self, mark: str) -> int | None:
        ids = self._tokenizer.encode(mark, add_special_tokens=False)
        return ids[0] if len(ids) == 1 else None

    def _mark(self, mark: str) -> str:
        return json.dumps(mark) if self._single(mark) is None else mark


def _json(schema: Mapping[str, Any], strict: bool) -> str:
    return f"%json {json.dumps({**schema, 'x-guidance': {**_LAYOUT, 'lenient': not strict}})}"


def _reason(error: str) -> str:
    """The first line of an error of llguidance's, without places in a grammar that nobody has seen."""
    line = error.partition("\n")[0]
    line = re.sub(r"^(at )?\d+\(\d+\): ", "", line).removeprefix("failed to compile JSON schema: ")
    return line[:200]
