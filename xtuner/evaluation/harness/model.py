"""A loaded model, as lm-evaluation-harness asks it.

loglikelihood           ("2 + 2 =", " 4")              ->  (-0.2, True)   True: the likeliest tokens
loglikelihood_rolling   ("one two",)                   ->  -14.7          every token, in windows
generate_until          ("2 + 2 =", {"until": ["."]})  ->  " 4"

answers.jsonl           {"index": "5f1c...", "logprob": -0.2, "is_greedy": true}

A line is written when an answer comes, under a hash of what was asked, and read again after a kill.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lm_eval.api.model import LM

from xtuner import json_lines
from xtuner.dataset.encoding.progress import show_rates
from xtuner.errors import ConfigError, DataError
from xtuner.evaluation.run_folder import Line, RunFolder
from xtuner.evaluation.text.likelihood import Likelihood
from xtuner.evaluation.text.scored import Scored, in_batches
from xtuner.generation.generate import answer, make_request
from xtuner.generation.request import End, Event, Failed, Request, Sampling
from xtuner.language import translate
from xtuner.log import logger
from xtuner.parallel.world import World

DEFAULT_LENGTH = 256
"""Tokens of an answer where the task says nothing, as with the harness's own models."""

_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_OF_SAMPLING = ("top_p", "top_k", "min_p", "repetition_penalty")

Write = Callable[[Sequence[Line], int], None]


class HarnessModel(LM):
    """A model and its tokenizer for lm-evaluation-harness; lines of earlier runs are not asked again."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        folder: RunFolder,
        world: World,
        *,
        batch_tokens: int,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        self._rank, self._world_size = world.rank, world.size
        self.tokenizer = tokenizer
        self._model, self._world, self._folder = model, world, folder
        self._likelihood = Likelihood(model, tokenizer)
        self._batch_tokens, self._batch_size, self._seed = batch_tokens, batch_size, seed
        self._lines = dict(folder.lines())
        self.num_known = len(self._lines)

    # --- what the harness asks ----------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """The log-probability of each text after its context, and whether its tokens are the likeliest."""
        names = [_name("loglikelihood", *request.args) for request in requests]
        texts = {name: request.args for name, request in zip(names, requests, strict=True)}
        with self._asking(texts) as (todo, write):
            self._score_after({name: texts[name] for name in todo}, write)
        lines = [self._lines[name] for name in names]
        return [(_or_never(line["logprob"]), bool(line["is_greedy"])) for line in lines]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """The log-probability of each text, all tokens of which are scored once."""
        names = [_name("loglikelihood_rolling", *request.args) for request in requests]
        texts = {name: request.args[0] for name, request in zip(names, requests, strict=True)}
        with self._asking(texts) as (todo, write):
            # The harness's own models score a start token of the tokenizer too.
            windows = [self._likelihood.windows(texts[name], special_tokens=True) for name in todo]
            for numbers, found in in_batches(self._likelihood.score, windows, self._batch_tokens):
                lines: list[Line] = [
                    {
                        "index": todo[number],
                        "logprob": sum(values),
                        "tokens": sum(len(one.targets) for one in windows[number]),
                    }
                    for number, values in zip(numbers, found, strict=True)
                ]
                write(lines, sum(line["tokens"] for line in lines))
        return [self._lines[name]["logprob"] for name in names]

    def generate_until(self, requests: list[Any]) -> list[str]:
        """The answer to each context."""
        count: Counter[str] = Counter()
        asked: dict[str, tuple[str, Mapping[str, Any], str | None]] = {}
        names = []
        for request in requests:
            name = _name("generate_until", *request.args)
            count[name] += 1
            # A context that is asked several times has several answers.
            names.append(f"{name}.{count[name]}")
            asked[names[-1]] = (*request.args, request.task_name)
        with self._asking(asked) as (todo, write):
            answers = self._requests({name: asked[name] for name in todo}, write)
            answer(self._model, self.tokenizer, answers, max_running=self._batch_size)
        return [self._lines[name]["prediction"] for name in names]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The text of a conversation in the tokenizer's chat template."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    @property
    def tokenizer_name(self) -> str:
        """The name under which the harness keeps prompts."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    # --- several processes --------------------------------------------------------------------------------

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """The number of every process."""
        return torch.tensor(self._world.all_gather(tensor.item()))

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """The object of every process, on `dst` alone."""
        found = self._world.all_gather(obj)
        return found if self._rank == dst else None

    def barrier(self) -> None:
        """Wait for the others."""
        self._world.all_gather(None)

    # --- how it is answered -------------------------------------------------------------------------------

    def line_of(self, kind: str, arguments: Sequence[Any]) -> Line:
        """What was answered to a request of this process or an earlier run; empty for another process's."""
        return self._lines.get(_name(kind, *arguments) + (".1" if kind == "generate_until" else ""), {})

    def read_others(self) -> None:
        """Know the lines of the other processes too; called by all."""
        self._lines |= dict(self._folder.lines())

    @contextmanager
    def _asking(self, names: Iterable[str]) -> Iterator[tuple[list[str], Write]]:
        """Yields those of `names` without an answer, and the function that writes their lines."""
        todo = [name for name in dict.fromkeys(names) if name not in self._lines]
        num_done = num_tokens = 0
        with self._folder.file.open("ab") as file, show_rates(translate("answering"), len(todo)) as advance:

            def write(lines: Sequence[Line], tokens: int) -> None:
                nonlocal num_done, num_tokens
                json_lines.append(file, lines, sync=False)
                self._lines.update({line["index"]: line for line in lines})
                num_done, num_tokens = num_done + len(lines), num_tokens + tokens
                advance(num_done, num_tokens)

            yield todo, write
            os.fsync(file.fileno())

    def _score_after(self, texts: Mapping[str, tuple[str, str]], write: Write) -> None:
        """Write a line for each text after its context."""
        by_context: dict[str, list[str]] = {}
        for name, (context, _) in texts.items():
            by_context.setdefault(context, []).append(name)
        encoded = [
            one for context, names in by_context.items() for one in self._encoded(context, names, texts)
        ]
        too_long = texts.keys() - {name for names, _ in encoded for name in names}
        if too_long:
            write([{"index": name, "logprob": None, "is_greedy": False} for name in sorted(too_long)], 0)
            what = "%d texts are longer than the model's context of %d tokens: they count as never written"
            logger.warning(translate(what), len(too_long), self._likelihood.context)
        samples = [own for _, own in encoded]
        for numbers, found in in_batches(self._likelihood.score_greedy, samples, self._batch_tokens):
            lines: list[Line] = [
                {"index": name, "logprob": logprob, "is_greedy": is_greedy}
                for number, values in zip(numbers, found, strict=True)
                for name, (logprob, is_greedy) in zip(encoded[number][0], values, strict=True)
            ]
            write(lines, sum(len(one.ids) for number in numbers for one in samples[number]))
        _warn_of_cut(self._likelihood.num_cut, self._likelihood.context)

    def _encoded(
        self, context: str, names: Sequence[str], texts: Mapping[str, tuple[str, str]]
    ) -> list[tuple[Sequence[str], list[Scored]]]:
        """What scores the texts after `context`, together if none is longer than what the model reads."""
        try:
            return [(names, self._likelihood.after(context, [texts[name][1] for name in names]))]
        except DataError:
            if len(names) == 1:
                return []
            return [one for name in names for one in self._encoded(context, [name], texts)]

    def _requests(
        self, asked: Mapping[str, tuple[str, Mapping[str, Any], str | None]], write: Write
    ) -> Iterator[Request]:
        num_cut, context = 0, self._likelihood.context
        for name, (text, options, task) in asked.items():
            seed = self._seed + zlib.crc32(name.encode())
            sampling = sampling_of(options, seed, task or "")
            ids = self._likelihood.encode(text) or [self._likelihood.start_token]
            room = len(ids) if context is None else context - sampling.max_new_tokens
            if room < 1:
                what = (
                    "{task} asks for answers of {count} tokens, which leave no room for a prompt in the "
                    "model's context of {context}: set max_gen_toks of the task to less"
                )
                raise ConfigError(translate(what, task=task, count=sampling.max_new_tokens, context=context))
            num_cut += len(ids) > room
            answered = _Answered(name, self.tokenizer, sampling.stop_words, write)
            request = make_request(self._model, ids[-room:], sampling, answered.listen)
            answered.request = request
            yield request
        _warn_of_cut(num_cut, context)


class _Answered:
    """Writes the text of one answer when it ends: without special tokens, up to the first stop word."""

    def __init__(self, name: str, tokenizer: Any, stop_words: Sequence[str], write: Write) -> None:
        self._name, self._tokenizer, self._stop_words, self._write = name, tokenizer, stop_words, write
        self.request: Request | None = None

    def listen(self, event: Event) -> None:
        """Take an event of the engine; raises that of a failure."""
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, End):
            assert self.request is not None
            text = self._tokenizer.decode(self.request.ids, skip_special_tokens=True)
            for word in self._stop_words:
                text = text.partition(word)[0]
            line: Line = {"index": self._name, "prediction": text}
            self._write([{**line, "cut": True} if event.finish == "length" else line], event.num_tokens)


def sampling_of(given: Mapping[str, Any], seed: int, task: str) -> Sampling:
    """How the tokens of an answer are chosen, by `generation_kwargs`; ConfigError for unknown ones."""
    rest = {name: value for name, value in given.items() if value is not None}
    until = rest.pop("until", [])
    words = [until] if isinstance(until, str) else list(until)
    lengths = [rest.pop(name) for name in _LENGTHS if name in rest]
    temperature = rest.pop("temperature", None)
    samples = rest.pop("do_sample", bool(temperature))
    chosen = {name: rest.pop(name) for name in _OF_SAMPLING if name in rest}
    if rest.pop("num_beams", 1) != 1 or rest:
        name = next(iter(rest), "num_beams")
        what = "{task} sets {name} of generation_kwargs to {value}, which answers here cannot have"
        raise ConfigError(translate(what, task=task, name=name, value=given[name]))
    return Sampling(
        max_new_tokens=int(lengths[0]) if lengths else DEFAULT_LENGTH,
        temperature=(1.0 if temperature is None else float(temperature)) if samples else 0.0,
        seed=seed,
        stop_words=tuple(dict.fromkeys(word for word in words if word)),
        **(chosen if samples else {n: v for n, v in chosen.items() if n == "repetition_penalty"}),
    )


def _warn_of_cut(count: int, context: int | None) -> None:
    if count:
        what = "%d prompts are longer than the model's context of %d tokens: their beginning was cut"
        logger.warning(translate(what), count, context)


def _name(kind: str, *arguments: Any) -> str:
    """A hash of what is asked."""
    content = json.dumps([kind, *arguments], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:24]


def _or_never(logprob: float | None) -> float:
    return -math.inf if logprob is None else logprob
