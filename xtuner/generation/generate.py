"""The model's answer to a row of token ids, token by token.

    ids ──forward──> logits of the next token ──penalty, temperature, top k, top p──> token ──> text
     ^───────────────────────────────────────────────────────────────────────────────┘

The loop is our own so that nothing outside it changes: it draws from a random generator of its own,
leaves every module in the mode it found it in, and builds no graph.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from xtuner.errors import ConfigError, DataError, ModelError
from xtuner.generation.kept_cache import KeptCache
from xtuner.generation.pictures import Pictures, model_inputs
from xtuner.generation.text_stream import TextStream

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Completion:
    """An answer: its text without the stop word, its tokens with it, and what ended it."""

    text: str
    ids: list[int]
    finish: str  # "end": an end-of-sequence token, "stop": a stop word, "length": no room, "cancelled"
    seconds: float
    first_seconds: float = 0.0  # until the first token was there
    reused: int = 0  # tokens of the prompt whose keys and values were kept from before

    @property
    def tokens_per_second(self) -> float:
        """How fast tokens came after the first; over the whole time where there was only one."""
        if len(self.ids) > 1 and self.seconds > self.first_seconds > 0:
            return (len(self.ids) - 1) / (self.seconds - self.first_seconds)
        return len(self.ids) / max(self.seconds, 1e-9)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: Sequence[int] | torch.Tensor,
    *,
    max_new_tokens: int = 512,
    temperature: float = 0.1,
    top_k: int = 40,
    top_p: float = 0.75,
    repetition_penalty: float = 1.0,
    stop_words: Sequence[str] = (),
    seed: int | None = None,
    on_text: Callable[[str], None] | None = None,
) -> str:
    """The text of the answer to `input_ids`; greedy where `temperature` is 0. See `complete`."""
    return complete(
        model,
        tokenizer,
        input_ids,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        stop_words=stop_words,
        seed=seed,
        on_text=on_text,
    ).text


@torch.no_grad()
def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: Sequence[int] | torch.Tensor,
    *,
    max_new_tokens: int = 512,
    temperature: float = 0.1,
    top_k: int = 40,
    top_p: float = 0.75,
    repetition_penalty: float = 1.0,
    stop_words: Sequence[str] = (),
    seed: int | None = None,
    on_text: Callable[[str], None] | None = None,
    cache: KeptCache | None = None,
    cancelled: Callable[[], bool] | None = None,
    pictures: Pictures | None = None,
) -> Completion:
    """The answer to `input_ids`, with its tokens and its end; `on_text` gets the text as it comes.

    `cache` spares the forward of what it has seen, `cancelled` is asked after each token and ends the
    answer, `pictures` knows the ids below zero. Raises DataError where the prompt fills the context,
    ModelError where the model answers with NaN.
    """
    prompt = [int(i) for i in torch.as_tensor(input_ids).reshape(-1)]
    room = _room(model, prompt, max_new_tokens)
    choose = Chooser(prompt, room, _device_of(model), temperature, top_k, top_p, repetition_penalty, seed)
    ends = end_ids(model, tokenizer)
    stream = TextStream(lambda ids: decode(tokenizer, ids), stop_words)
    pieces: list[str] = []

    def show(piece: str) -> None:
        if piece:
            pieces.append(piece)
            if on_text is not None:
                on_text(piece)

    ids: list[int] = []
    finish, first_seconds = "length", 0.0
    start = time.perf_counter()
    cache = KeptCache() if cache is None else cache
    reused = cache.take(prompt, same_until=_rotation_changes_at(model))
    with _eval_mode(model):
        for logits in _next_logits(model, prompt, ids, cache, pictures):
            token = choose(logits)
            ids.append(token)
            first_seconds = first_seconds or time.perf_counter() - start
            if token in ends:
                finish = "end"
                break
            show(stream.push(token))
            if stream.stopped:
                finish = "stop"
                break
            if len(ids) == room:
                break
            if cancelled is not None and cancelled():
                finish = "cancelled"
                break
    show(stream.finish())
    finish = "stop" if stream.stopped else finish
    return Completion("".join(pieces), ids, finish, time.perf_counter() - start, first_seconds, reused)


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end an answer by what tokenizer and model say."""
    found = {tokenizer.eos_token_id}
    for config in (getattr(model, "generation_config", None), getattr(model, "config", None)):
        ends = getattr(config, "eos_token_id", None)
        found |= set(ends) if isinstance(ends, (list, tuple)) else {ends}
    return {int(i) for i in found if i is not None}


def context_length(model: PreTrainedModel) -> int | None:
    """How many tokens the model was made for, None where its config does not say."""
    config = model.config.get_text_config()
    length = getattr(config, "max_position_embeddings", None)
    return length if isinstance(length, int) and length > 0 else None


def _rotation_changes_at(model: PreTrainedModel) -> int | None:
    """The length at which rotary positions change for all tokens, kept keys included; None: never."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if not isinstance(rope, dict) or rope.get("rope_type") not in ("longrope", "dynamic"):
        return None
    length = rope.get("original_max_position_embeddings")
    return length or getattr(config, "original_max_position_embeddings", None) or context_length(model)


def _room(model: PreTrainedModel, prompt: list[int], max_new_tokens: int) -> int:
    if not prompt:
        raise DataError("there is nothing to answer: the prompt has no tokens")
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens is {max_new_tokens}: write 1 or more")
    context = context_length(model)
    if context is None:
        return max_new_tokens
    if len(prompt) >= context:
        raise DataError(f"the prompt has {len(prompt)} tokens; the model's context holds {context}")
    return min(max_new_tokens, context - len(prompt))


def _device_of(model: PreTrainedModel) -> torch.device:
    # Weights that are offloaded stand on "meta" until their layer runs.
    return next((p.device for p in model.parameters() if p.device.type != "meta"), torch.device("cpu"))


def decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """The text of `ids`, special tokens and all."""
    # Stop words and the marks of tools are special tokens.
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


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


def _next_logits(
    model: PreTrainedModel,
    prompt: list[int],
    ids: list[int],
    cache: KeptCache,
    pictures: Pictures | None,
) -> Iterator[torch.Tensor]:
    """The logits after `prompt`, then after each token that the caller has added to `ids`."""
    from xtuner.generation.cached_forward import CachedForward

    forward = CachedForward(model)
    device = _device_of(model)
    row = list(prompt)
    while True:
        row += ids[len(row) - len(prompt) :]
        new = torch.tensor([row[len(cache.ids) :]], dtype=torch.long, device=device)
        read, values = cache.ids, cache.values
        # A forward that is interrupted leaves keys of some layers only: nothing of it may be kept.
        cache.forget()
        logits, cache.values = forward(model_inputs(model, new, pictures), values)
        if cache.values is not None:
            read += row[len(read) :]
            cache.ids = read
        # A model without keys and values to keep reads the whole row again.
        yield logits


class Chooser:
    """Picks the next token from logits [1, vocabulary]."""

    def __init__(
        self,
        prompt: list[int],
        room: int,
        device: torch.device,
        temperature: float,
        top_k: int,
        top_p: float,
        repetition_penalty: float,
        seed: int | None,
        min_p: float = 0.0,
    ) -> None:
        from transformers.generation import logits_process as lp

        self.greedy = temperature <= 0
        self.steps: list[Any] = []
        if repetition_penalty != 1.0:
            self.steps.append(lp.RepetitionPenaltyLogitsProcessor(repetition_penalty))
        if not self.greedy:
            if temperature != 1.0:
                self.steps.append(lp.TemperatureLogitsWarper(float(temperature)))
            if top_k > 0:
                self.steps.append(lp.TopKLogitsWarper(top_k))
            if top_p < 1.0:
                self.steps.append(lp.TopPLogitsWarper(top_p))
            if min_p > 0.0:
                self.steps.append(lp.MinPLogitsWarper(min_p))
        self.generator = torch.Generator(device)
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed)
        words = [i for i in prompt if i >= 0]  # nothing of an image can be said twice
        self.row = torch.zeros(1, len(words) + room, dtype=torch.long, device=device)
        self.row[0, : len(words)] = torch.tensor(words)
        self.length = len(words)

    def __call__(self, logits: torch.Tensor) -> int:
        logits = logits.to(self.row.device)
        if not logits.max().isfinite():
            raise ModelError("the model answers with numbers that are not finite: load it in bf16 or fp32")
        for step in self.steps:
            logits = step(self.row[:, : self.length], logits)
        if self.greedy:
            token = logits.argmax(-1)
        else:
            token = torch.multinomial(logits.softmax(-1), 1, generator=self.generator).squeeze(1)
        self.row[0, self.length] = token[0]
        self.length += 1
        return int(token)
