"""Structured answers: the tokens that may come next under a requested format, by llguidance.

    response_format json_schema     {"name": "Ann", "age": 7}                         of that schema
    tool_choice required, named     <tool_call>\\n{"name": "add", "arguments": {...}}\\n</tool_call>
    strict tools                    any text, but calls in it have arguments of their schema

Calls are written between marks if the model's template has these, else a call is the whole answer.
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
# One line, as most models write JSON: free whitespace could continue without end.
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


@dataclass(frozen=True)
class CallForm:
    """A function that may be called; unsupported parts of a schema are ignored unless it is `strict`."""

    name: str
    schema: Mapping[str, Any] | None = None
    strict: bool = False


@dataclass(frozen=True)
class AnswerFormat:
    """The allowed answers: JSON of `schema` (any text if None) or calls, or only calls if `must_call`."""

    schema: Mapping[str, Any] | None = None
    strict: bool = True
    calls: Sequence[CallForm] = ()
    must_call: bool = False
    several: bool = True
    marked: bool = True
    arguments: str = "arguments"  # their key in a call


class UnavailableError(XTunerError):
    """Structured answers are not available here."""


class Form:
    """A format that answers can have."""

    def __init__(self, matcher: Any, ends: Sequence[int], notes: Sequence[str] = ()) -> None:
        self._matcher = matcher
        self._ends = ends
        self.notes = list(notes)  # parts of a schema that are not enforced

    def start(self) -> Mask:
        """The mask of a new answer."""
        return Mask(self._matcher.deep_copy(), self._ends)


class Mask:
    """Masks the tokens that the format of one answer forbids."""

    def __init__(self, matcher: Any, ends: Sequence[int]) -> None:
        self._matcher = matcher
        self._ends = ends

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """`logits` [vocabulary], with minus infinity for each token that may not come next."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed = np.zeros(len(logits), bool)
        unpacked = np.unpackbits(bits, bitorder="little")[: len(logits)]
        allowed[: len(unpacked)] = unpacked
        # The matcher knows only the first of the end tokens; if it is allowed, all are.
        if allowed[self._ends[0]]:
            allowed[list(self._ends)] = True
        return logits.masked_fill(~torch.from_numpy(allowed).to(logits.device), float("-inf"))

    def push(self, token: int) -> None:
        """Advance by `token`."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ModelError(f"the form of the answer cannot be kept: {_reason(self._matcher.get_error())}")


class Forms:
    """Creates formats for one tokenizer and a vocabulary of `num_tokens`."""

    def __init__(self, tokenizer: Any, num_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._num_tokens = max(num_tokens, len(tokenizer))
        self._known = lru_cache(maxsize=4)(self._with_end)

    def make(self, answer_format: AnswerFormat, ends: Sequence[int]) -> Form:
        """The format of answers that end with one of `ends`; DataError for an unsupported schema."""
        if not ends:
            raise UnavailableError(
                "answers of a given form need a token that ends them, and the model has none"
            )
        known = self._known(ends[0])
        from llguidance import LLMatcher

        grammar = self._grammar(answer_format, frozenset(ends))
        failed, notes = LLMatcher.validate_grammar_with_warnings(grammar, known)
        if failed:
            raise DataError(f"this schema cannot be kept: {_reason(notes[0])}")
        matcher = LLMatcher(known, grammar, log_level=0)
        if matcher.is_error():
            raise DataError(f"this schema cannot be kept: {_reason(matcher.get_error())}")
        # A grammar that is too large fails here, in the thread of its request.
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

    def _grammar(self, answer_format: AnswerFormat, ends: frozenset[int]) -> str:
        rules: list[str] = []
        names = []
        for number, call in enumerate(answer_format.calls):
            name = json.dumps(call.name, ensure_ascii=False)
            head = json.dumps(f'{{"name": {name}, "{answer_format.arguments}": ')
            schema = _json({**_ANY_OBJECT, **(call.schema or {})}, call.strict)
            rules += [f'call_{number}: {head} arguments_{number} "}}"', f"arguments_{number}: {schema}"]
            names.append(f"call_{number}")
        if names:
            rules.append(f"call: {' | '.join(names)}")
        if answer_format.schema is not None:
            rules.append(f"answer: {_json(answer_format.schema, answer_format.strict)}")
        starts = ["answer"] if answer_format.schema is not None else []
        if answer_format.calls and (answer_format.must_call or answer_format.schema is not None):
            starts.append("calls")
            rules += self._calls_alone(answer_format)
        elif answer_format.calls:
            starts.append("free")
            rules += self._calls_in_text(ends)
        return "\n".join([f"start: {' | '.join(starts)}", *rules])

    def _calls_alone(self, answer_format: AnswerFormat) -> list[str]:
        if not answer_format.marked:
            return ["calls: call"]
        one = f'{self._mark(_OPEN)} "\\n" call "\\n" {self._mark(_CLOSE)}'
        several = 'calls: marked ("\\n" marked)*'
        return [f"marked: {one}", several if answer_format.several else "calls: marked"]

    def _calls_in_text(self, ends: frozenset[int]) -> list[str]:
        # TEXT excludes control tokens, which a model may use, for example to think.
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
    """The first line of an error of llguidance, without its position in the generated grammar."""
    line = error.partition("\n")[0]
    line = re.sub(r"^(at )?\d+\(\d+\): ", "", line).removeprefix("failed to compile JSON schema: ")
    return line[:200]
