"""Questions that a model behind an address answers, several at a time.

choices      "2 + 2 ="                 3 tokens: as many as precede each choice
             "2 + 2 = 4" "2 + 2 = 5"   the log-probabilities of the tokens after these, added up
texts        the start token and the text: those of all tokens but the first
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from xtuner.errors import ConfigError, DataError
from xtuner.evaluation.run_folder import Line
from xtuner.evaluation.text.address import Address, Generation
from xtuner.evaluation.text.tasks import ANSWERS, CHOICES, PERPLEXITY, Question
from xtuner.evaluation.text.threads import in_threads
from xtuner.language import translate

Asked = tuple[str, str, Question]
"""The name of a question among those of all tasks, its kind, and the question."""


class Remote:
    """Answers questions by a model behind an address."""

    def __init__(
        self, address: Address, generation: Generation, system: str | None, seed: int, start_token: str | None
    ) -> None:
        self._address, self._generation = address, generation
        self._system, self._seed, self._start_token = system, seed, start_token
        self._start = ""

    def answer(
        self, questions: Sequence[Asked], concurrency: int, write: Callable[[Sequence[Line], int], None]
    ) -> None:
        """Write the line of each question and the number of its tokens, as they come.

        Raises ConfigError before the first is asked if the server cannot score what has to be scored.
        """
        self._check({kind for _, kind, _ in questions})
        try:
            asked = [functools.partial(self._line, *question) for question in questions]
            in_threads(asked, concurrency, lambda found: write([found[0]], found[1]))
        finally:
            self._address.close()

    def _check(self, kinds: set[str]) -> None:
        if scored := sorted(kinds - {ANSWERS}):
            if not self._address.scores_prompts():
                what = (
                    "{url} gives no log-probabilities of prompts (echo and logprobs of /v1/completions), "
                    "which tasks of {kinds} need: measure tasks of answers there, or serve the model by "
                    "xtuner serve or vLLM"
                )
                raise ConfigError(translate(what, url=self._address.url, kinds=", ".join(scored)))
            if PERPLEXITY in kinds:
                self._start = self._address.start_of(self._start_token)

    def _line(self, name: str, kind: str, question: Question) -> tuple[Line, int]:
        try:
            if kind == ANSWERS:
                return self._answered(name, question)
            if kind == CHOICES:
                logprobs, num_tokens = logprobs_after(self._address, question.prompt, question.choices)
                return {"index": name, "logprobs": logprobs}, num_tokens
            if not question.prompt:
                raise DataError(translate("the text is empty"))
            ((_, *rest),) = self._address.token_logprobs([self._start + question.prompt])
            return {"index": name, "logprob": _total(rest), "tokens": len(rest)}, len(rest)
        except DataError as error:
            return {"index": name, "error": " ".join(str(error).split())}, 0

    def _answered(self, name: str, question: Question) -> tuple[Line, int]:
        messages: list[Any] = list(question.messages)
        if self._system and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self._system})
        seed = (self._seed + zlib.crc32(name.encode())) % 2**31
        found = self._address.answer(messages, self._generation, seed)
        line: Line = {"index": name, "prediction": found.text}
        return {**line, "cut": True} if found.is_cut else line, found.num_tokens


def logprobs_after(address: Address, prompt: str, texts: Sequence[str]) -> tuple[list[float], int]:
    """The log-probability of each of `texts` after `prompt`, and the number of tokens that were read.

    The tokens of a text are those after as many as the prompt has alone, without its last spaces.
    """
    kept = prompt.rstrip()
    alone, *whole = address.token_logprobs([kept, *(prompt + text for text in texts)])
    start = len(alone)
    return [_total(one[start:]) for one in whole], sum(map(len, [alone, *whole]))


def _total(logprobs: Sequence[float | None]) -> float:
    if any(value is None for value in logprobs):
        raise DataError(translate("the server's reply lacks the log-probability of a token"))
    return sum(value for value in logprobs if value is not None)
