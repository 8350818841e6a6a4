"""A request for one answer: its prompt and sampling, its state, and the events of its answer.

logits ──bias, penalties, form──> Chooser ──> token ──> TextStream ──> Piece, Piece, ..., End
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from xtuner.errors import XTunerError
from xtuner.generation.choose import Chooser
from xtuner.generation.pictures import Picture
from xtuner.generation.text_stream import TextStream, decode

if TYPE_CHECKING:
    from xtuner.generation.shared_prompt import SharedPrompt


class Mask(Protocol):
    """The tokens that may come next in one answer."""

    def apply(self, logits: torch.Tensor) -> torch.Tensor: ...
    def push(self, token: int) -> None: ...


class Form(Protocol):
    """A format that answers must have."""

    def start(self) -> Mask: ...


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; greedy if `temperature` is 0."""

    max_new_tokens: int = 2048
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop_words: Sequence[str] = ()
    stop_ids: frozenset[int] = frozenset()
    echo: bool = False  # the prompt precedes the answer
    form: Form | None = None
    logprobs: int | None = None  # alternatives to report of each token; 0: only the token itself


@dataclass(frozen=True)
class TokenInfo:
    """A token, its log-probability (None for the first of a prompt), and the likeliest tokens."""

    token: int
    logprob: float | None
    top: list[tuple[int, float]]


@dataclass(frozen=True)
class Piece:
    """New text of an answer, and with logprobs the tokens since the last piece."""

    text: str
    tokens: list[TokenInfo]


# The ways in which the model itself ends an answer.
COMPLETE = ("end", "stop")


@dataclass(frozen=True)
class End:
    """The end of an answer.

    `finish` is "end" (an end-of-sequence token), "stop" (a stop word), "length", "time" or "cancelled".
    """

    finish: str
    num_prompt_tokens: int
    num_tokens: int
    num_reused: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether the model ended the answer itself."""
        return self.finish in COMPLETE


@dataclass(frozen=True)
class Failed:
    """The error of a request."""

    error: Exception


Event = Piece | End | Failed


class LateError(XTunerError):
    """An answer did not begin before its deadline."""


@dataclass(eq=False)
class Request:
    """A waiting, running or ended request. `emit` receives its events, in the engine's thread."""

    prompt: list[int]
    sampling: Sampling
    emit: Callable[[Event], None]
    adapter: str | None = None
    client: str = ""  # a queue serves clients in turn
    deadline: float = float("inf")  # in seconds of time.monotonic()
    cancelled: bool = False
    pictures: Sequence[Picture] = ()  # whose ids are in the prompt
    shared: SharedPrompt | None = None  # of neighbours with the same prompt, until the answer begins
    ids: list[int] = field(default_factory=list)
    cache: Any = None
    has_begun: bool = False
    positions: torch.Tensor | None = None  # [3, tokens] of the prompt, if they are not counted as usual
    num_read: int = 0
    num_reused: int = 0
    first_at: float = 0.0  # time of the first token, in seconds of time.perf_counter()

    def begin(self, tokenizer: Any, ends: set[int], device: torch.device) -> None:
        """Prepare for the first logits."""
        s, self.has_begun = self.sampling, True
        self.row = list(self.prompt)
        self._ends = ends | s.stop_ids
        self._mask = None if s.form is None else s.form.start()
        self._counts: Counter[int] = Counter()
        self._infos: list[TokenInfo] = []
        self._chooser = Chooser(self.prompt, s, device)
        self._stream = TextStream(lambda ids: decode(tokenizer, ids), s.stop_words)
        if s.echo:
            self._infos += [] if s.logprobs is None else [TokenInfo(self.prompt[0], None, [])]
            self._echo = decode(tokenizer, [i for i in self.prompt if i >= 0])

    @property
    def shift(self) -> int:
        """The position of the first token of the answer, minus the number of tokens before it."""
        return 0 if self.positions is None else int(self.positions.max()) + 1 - len(self.prompt)

    @property
    def wants_prompt_logits(self) -> bool:
        """Whether the logits after each token of the prompt are needed."""
        return self.sampling.echo and self.sampling.logprobs is not None

    def push_prompt(self, logits: torch.Tensor, start: int) -> None:
        """Store log-probabilities of the prompt's tokens after `start`; `logits` are [tokens, vocabulary]."""
        count = self.sampling.logprobs or 0
        following = self.prompt[start + 1 : start + 1 + len(logits)]
        self._infos += [_token_info(row, t, count) for row, t in zip(logits, following, strict=False)]

    def end_prompt(self) -> bool:
        """Emit the prompt if requested; returns whether the request has ended, with an empty answer."""
        if self.sampling.echo:
            self._emit_piece(self._echo)
        return self.sampling.max_new_tokens == 0 and self._end("length", "")

    def push(self, logits: torch.Tensor) -> bool:
        """Choose the next token from logits [vocabulary]; returns whether the answer has ended."""
        s = self.sampling
        adjusted = self._adjusted(logits)
        adjusted = adjusted if self._mask is None else self._mask.apply(adjusted)
        token = self._chooser(adjusted[None])
        self.first_at = self.first_at or time.perf_counter()
        self.ids.append(token)
        self.row.append(token)
        if s.presence_penalty or s.frequency_penalty:
            self._counts[token] += 1
        if s.logprobs is not None:
            self._infos.append(_token_info(adjusted, token, s.logprobs))
        if token in self._ends:
            return self._end("end", self._stream.finish())
        text = self._stream.push(token)
        if self._stream.stopped:
            return self._end("stop", text)
        if len(self.ids) >= s.max_new_tokens:
            return self._end("length", text + self._stream.finish())
        if self._mask is not None:
            self._mask.push(token)
        if text:
            self._emit_piece(text)
        return False

    def is_over(self) -> bool:
        """End the answer if it is cancelled or late; returns whether it was."""
        if self.cancelled:
            self._end("cancelled", self._stream.finish() if self.ids else "")
        elif not self.is_late:
            return False
        elif self.ids:
            self._end("time", self._stream.finish())
        else:
            self.fail(LateError("the time allowed for it was over before the answer began"))
        return True

    def fail(self, error: Exception) -> None:
        """End with an error."""
        self.emit(Failed(error))

    def _end(self, finish: str, text: str) -> bool:
        # The text held back may contain a stop word.
        finish = "stop" if self.ids and self._stream.stopped else finish
        if text or (self.ids and self._infos):
            self._emit_piece(text)
        self.emit(End(finish, len(self.prompt), len(self.ids), self.num_reused))
        return True

    def _emit_piece(self, text: str) -> None:
        infos, self._infos = self._infos, []
        self.emit(Piece(text, infos))

    def _adjusted(self, logits: torch.Tensor) -> torch.Tensor:
        s = self.sampling
        if not s.logit_bias and not self._counts:
            return logits
        logits = logits.clone()
        for token, bias in s.logit_bias.items():
            logits[token] += bias
        for token, count in self._counts.items():
            logits[token] -= s.presence_penalty + s.frequency_penalty * count
        return logits

    @property
    def is_late(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() > self.deadline


def _token_info(logits: torch.Tensor, token: int, count: int) -> TokenInfo:
    logprobs = logits.log_softmax(-1)
    values, tokens = logprobs.topk(min(count, len(logprobs)))
    top = [(int(t), float(v)) for t, v in zip(tokens.tolist(), values.tolist(), strict=True)]
    return TokenInfo(token, float(logprobs[token]), top)
