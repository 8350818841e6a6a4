"""Answers to prompts, written by an engine that lives as long as they take.

    complete   one prompt -> Completion, its text as it comes
    answer     many requests, each of which gets the events of its answer

Nothing outside of it changes: it draws from random generators of its own, leaves every module in the mode
it found it in, and builds no graph.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from xtuner.generation.engine import Engine
from xtuner.generation.kept_cache import KeptCache
from xtuner.generation.limits import answer_room, context_length
from xtuner.generation.pictures import Pictures
from xtuner.generation.request import End, Event, Failed, Request, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# How chat and samples during training choose where nothing else is asked for.
SAMPLING = {"max_new_tokens": 512, "temperature": 0.1, "top_k": 40, "top_p": 0.75}


@dataclass(frozen=True)
class Completion:
    """An answer: its text without the stop word, its tokens with it, and how it ended (see `End`)."""

    text: str
    ids: list[int]
    finish: str
    seconds: float
    first_seconds: float = 0.0  # until the first token was there
    reused: int = 0  # tokens of the prompt whose keys and values were kept from before

    @property
    def tokens_per_second(self) -> float:
        """How fast tokens came after the first; over the whole time where there was only one."""
        if len(self.ids) > 1 and self.seconds > self.first_seconds > 0:
            return (len(self.ids) - 1) / (self.seconds - self.first_seconds)
        return len(self.ids) / max(self.seconds, 1e-9)


def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: Sequence[int] | torch.Tensor,
    *,
    on_text: Callable[[str], None] | None = None,
    cache: KeptCache | None = None,
    cancelled: Callable[[], bool] | None = None,
    pictures: Pictures | None = None,
    **sampling: Any,
) -> Completion:
    """The answer to `input_ids`; `sampling` are fields of `Sampling`, as chat has them where left out.

    `on_text` gets the text as it comes, `cache` spares the forward of what it has seen, `cancelled` is asked
    after each token and ends the answer, `pictures` knows the ids below zero. Raises DataError where the
    prompt fills the context, ModelError where the model answers with NaN.
    """
    start = time.perf_counter()
    pieces: list[str] = []
    ends: list[End] = []

    def listen(event: Event) -> None:
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, End):
            ends.append(event)
        elif event.text:
            pieces.append(event.text)
            if on_text is not None:
                on_text(event.text)

    prompt = [int(i) for i in torch.as_tensor(input_ids).reshape(-1)]
    request = make_request(model, prompt, Sampling(**{**SAMPLING, **sampling}), listen)

    def check() -> None:
        request.cancelled = cancelled is not None and cancelled()

    answer(model, tokenizer, [request], cache=cache, pictures=pictures, after_step=check)
    seconds, first = time.perf_counter() - start, request.first_at - start
    return Completion("".join(pieces), request.ids, ends[0].finish, seconds, first, request.num_reused)


def make_request(
    model: PreTrainedModel, prompt: list[int], sampling: Sampling, emit: Callable[[Event], None]
) -> Request:
    """A request whose answer fits the model's context; DataError where the prompt leaves no room for one."""
    room = answer_room(context_length(model), prompt, sampling.max_new_tokens)
    return Request(prompt, replace(sampling, max_new_tokens=room), emit)


@torch.no_grad()
def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    *,
    cache: KeptCache | None = None,
    pictures: Pictures | None = None,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Write the answers to `requests` together; `after_step` is called after each token of all of them."""
    engine = Engine(model, tokenizer, cache=cache, pictures=pictures)
    waiting = deque(requests)
    with _eval_mode(model):
        while engine.step(lambda: waiting.popleft() if waiting else None):
            after_step()


@contextmanager
def _eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Every module in eval mode, and back in its own mode after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
