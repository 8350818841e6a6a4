"""Batches of answers that the model itself samples for each update, with their rewards.

    update      prompts a b            batch_size prompts of each process
    sampled     a1 a2 a3  b1 b2 b3     `count` answers to each, by the current weights
    rewards     1  0  0   1  1  1      advantages 1.2 -0.6 -0.6  0 0 0
    batches     a1 b3 a3 | a2 b1 b2    accumulative_counts batches of about equally many tokens

Random numbers of an answer are a function of the run's seed, the update, the item of the prompt and the
number of the answer. So a resumed run samples the same, and so do several processes together.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from xtuner.blocks import ANSWERS_AT_ONCE
from xtuner.dataset.collate_fns.flat import flat_collate_fn
from xtuner.dataset.prompt_dataset import Prompt, PromptDataset
from xtuner.engine.backend import to_device
from xtuner.engine.batches.indexed import Batches
from xtuner.engine.randomness import get_rng_state
from xtuner.errors import ConfigError
from xtuner.generation.generate import Completion, complete_all
from xtuner.generation.request import Sampling
from xtuner.language import translate
from xtuner.rewards.advantages import advantages_of, differ
from xtuner.rewards.scored import Answer, Rewards
from xtuner.utils import IGNORE_INDEX

if TYPE_CHECKING:
    from xtuner.engine.run import Run


class Rollouts:
    """How answers are sampled and rewarded: `rollouts` of a config."""

    def __init__(
        self,
        rewards: Any,
        weights: Sequence[float] | None = None,
        count: int = 8,
        max_new_tokens: int = 512,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        stop_words: Sequence[str] = (),
        iterations: int = 1,
        scale_rewards: bool = True,
        leave_one_out: bool = False,
        leave_out_cut: bool = False,
        max_running: int = ANSWERS_AT_ONCE,
        shown: int = 2,
        shown_every: int = 20,
    ):
        """`count`: answers to a prompt. `iterations`: updates on the same answers.

        `leave_out_cut`: answers without an end after `max_new_tokens` have no loss. `max_running`: answers
        that are generated at a time. `shown`: answers in the log, every `shown_every` updates.
        """
        _check("count", count, 2)
        _check("max_new_tokens", max_new_tokens, 1)
        _check("iterations", iterations, 1)
        _check("max_running", max_running, 1)
        if not temperature > 0:
            what = "rollouts.temperature is {value}: answers to a prompt must differ, so it must be above 0"
            raise ConfigError(translate(what, value=temperature))
        self.rewards = Rewards(rewards, weights)
        self.count, self.iterations, self.max_running = count, iterations, max_running
        self.scale_rewards, self.leave_one_out = scale_rewards, leave_one_out
        self.leave_out_cut = leave_out_cut
        self.shown, self.shown_every = shown, shown_every
        self.max_new_tokens, self.temperature = max_new_tokens, temperature
        self._more = {"top_k": top_k, "top_p": top_p, "min_p": min_p}
        self._stop_words = list(stop_words)

    def sampling(self, dataset: PromptDataset, **more: Any) -> Sampling:
        """How an answer to a prompt of `dataset` is sampled."""
        words = list(dict.fromkeys([*dataset.stop_words, *self._stop_words]))
        own = {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature, **self._more}
        return Sampling(**{**own, "stop_words": words, **more})


def _check(name: str, value: int, least: int) -> None:
    if value < least:
        what = "rollouts.{name} is {value}, but must be at least {least}"
        raise ConfigError(translate(what, name=name, value=value, least=least))


@dataclass(frozen=True)
class Sampled:
    """The answers of this process to some prompts: `answers`, `completions` and `scores` have one order."""

    prompts: Sequence[Prompt]
    answers: Sequence[Answer]
    completions: Sequence[Completion]
    scores: np.ndarray  # [answers, rewards]
    rewards: np.ndarray  # [prompts, answers to each]

    @property
    def is_cut(self) -> np.ndarray:
        """Whether each answer is without an end."""
        return np.array([not completion.is_complete for completion in self.completions])


def answers_to(
    run: Run,
    rollouts: Rollouts,
    dataset: PromptDataset,
    indices: Sequence[int],
    samplings: Sequence[Sampling],
) -> Sampled | None:
    """Answers to the items `indices`, as many to each as there are `samplings` for it, with their rewards.

    None if this process receives a signal meanwhile.
    """
    prompts = [dataset.prompt(index) for index in indices]
    count = len(samplings) // max(1, len(prompts))
    of_answers = [prompt for prompt in prompts for _ in range(count)]
    asked = [(prompt.ids, sampling) for prompt, sampling in zip(of_answers, samplings, strict=True)]

    def is_stopped() -> bool:
        return run.train_loop is not None and run.train_loop.stop_noted()

    def sample() -> list[Completion]:
        return complete_all(
            run.model.llm, dataset.tokenizer, asked, max_running=rollouts.max_running, cancelled=is_stopped
        )

    # `xtuner test` has no optimizer.
    with run.optim_wrapper.autocast() if run.optim_wrapper else contextlib.nullcontext():
        completions = run.backend.sample_apart(sample)
    if is_stopped():
        return None
    answers = [
        Answer(p.asked.shown, c.text, p.asked.reference, p.row, p.place, p.asked.messages)
        for p, c in zip(of_answers, completions, strict=True)
    ]
    scores = rollouts.rewards.score(answers)
    rewards = (scores @ rollouts.rewards.weights).reshape(len(prompts), count)
    return Sampled(prompts, answers, completions, scores, rewards)


class RolloutBatches:
    """An endless run of batches of sampled answers; `prompts` are those of this process."""

    def __init__(self, run: Run, rollouts: Rollouts, prompts: Batches, accumulative_counts: int):
        self._run, self.rollouts, self._prompts = run, rollouts, prompts
        self.num_batches = accumulative_counts
        # Batches that further updates train on, and how many of these are left.
        self._kept: tuple[int, list[tuple[list[int], dict[str, Any]]]] = 0, []
        # The newest answers, their numbers for the log, and the seconds that the update has sampled.
        self.sampled: Sampled | None = None
        self.numbers: dict[str, float] = {}
        self.seconds = 0.0

    @property
    def dataset(self) -> PromptDataset:
        return self._prompts.dataset

    @property
    def sampler(self) -> Any:
        return self._prompts.sampler

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of `numbers`."""
        own = ("reward", "reward_std", "no_difference", "length", "cut")
        names = self.rollouts.rewards.names
        return (*own, *(f"reward/{name}" for name in names if len(names) > 1))

    def __len__(self) -> int:
        return len(self._prompts) * self.rollouts.iterations * self.num_batches

    def position(self) -> Any:
        """None: the iteration is the position; with `iterations` above 1 the answers that are left."""
        if self.rollouts.iterations == 1:
            return None
        left, batches = self._kept
        plain = [(indices, _as_plain(batch)) for indices, batch in batches] if left else []
        return {"left": left, "batches": plain, "numbers": dict(self.numbers)}

    def go_on_from(self, position: Any) -> None:
        """Let `start_at` begin with the answers that are left."""
        batches = [(list(indices), _from_plain(batch)) for indices, batch in position["batches"]]
        self._kept, self.numbers = (position["left"], batches), dict(position["numbers"])

    def start_at(self, iteration: int) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Pairs of the items of a batch and the batch, from the update of `iteration` on."""
        update, times = iteration // self.num_batches, self.rollouts.iterations
        if self._kept[0]:
            yield from self._repeated()
        # An update that begins with answers left to train on continues their number.
        number = -(-update // times)
        for indices, _ in self._prompts.start_at(number):
            self._kept = times, self._sample(number, indices)
            yield from self._repeated()
            number += 1

    def _repeated(self) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """The kept batches, once for each update that is left."""
        left, batches = self._kept
        while left:
            # Later updates on the same answers sample none.
            self.seconds = self.seconds if left == self.rollouts.iterations else 0.0
            left -= 1
            for number, (indices, batch) in enumerate(batches):
                if number == len(batches) - 1:
                    # The loop asks for the position after the last batch of an update.
                    self._kept = left, batches
                yield list(indices), {"data": dict(batch), "data_samples": None}

    def _sample(self, number: int, indices: list[int]) -> list[tuple[list[int], dict[str, Any]]]:
        """The batches of an update, whose answers are sampled now."""
        begin, rng = time.perf_counter(), get_rng_state()
        run, rollouts = self._run, self.rollouts
        # A schedule-free optimizer may show its averaged weights, which are not those that train.
        run.optim_wrapper.go_on()
        samplings = [
            rollouts.sampling(self.dataset, seed=seed_of(run.seed, number, index, answer))
            for index in indices
            for answer in range(rollouts.count)
        ]
        sampled = answers_to(run, rollouts, self.dataset, indices, samplings)
        run.train_loop.end_before_update(rng)
        assert sampled is not None
        advantages = advantages_of(sampled.rewards, rollouts.scale_rewards, rollouts.leave_one_out).ravel()
        is_left_out = sampled.is_cut if rollouts.leave_out_cut else np.zeros(len(advantages), bool)
        kept = np.flatnonzero(~is_left_out)
        lengths = [self._length(sampled, answer) for answer in kept.tolist()]
        batches = []
        for part in divide(lengths, self.num_batches):
            answers = kept[part]
            items = list(dict.fromkeys(indices[answer // rollouts.count] for answer in answers))
            batches.append((items, self._batch(sampled, answers, advantages)))
        self.sampled, self.numbers = sampled, self._numbers(sampled)
        self.seconds = time.perf_counter() - begin
        return batches

    def _length(self, sampled: Sampled, answer: int) -> int:
        prompt = sampled.prompts[answer // self.rollouts.count]
        return len(prompt.ids) + len(sampled.completions[answer].ids)

    def _batch(self, sampled: Sampled, answers: np.ndarray, advantages: np.ndarray) -> dict[str, Any]:
        """The data of a batch; a process without answers has a token without loss, so that it takes part."""
        items = [
            _item(sampled.prompts[answer // self.rollouts.count].ids, sampled.completions[answer].ids)
            for answer in answers
        ]
        data = flat_collate_fn(items or [_item([0], [])])["data"]
        data["advantages"] = torch.tensor(advantages[answers].tolist(), dtype=torch.float32)
        data |= {"max_new_tokens": self.rollouts.max_new_tokens, "temperature": self.rollouts.temperature}
        if self.rollouts.iterations > 1:
            run = self._run
            given = {"data": to_device(data, run.device), "data_samples": None}
            data["old_logprobs"] = run.backend.measure(run.optim_wrapper, given, mode="sampled").cpu()
        return data

    def _numbers(self, sampled: Sampled) -> dict[str, float]:
        """The numbers of the update for the log, of all processes."""
        lengths = [len(completion.ids) for completion in sampled.completions]
        deviations = sampled.rewards.std(1, ddof=1)
        of_answers = [sampled.rewards.sum(), sum(lengths), sampled.is_cut.sum(), *sampled.scores.sum(0)]
        of_prompts = [deviations.sum(), (~differ(sampled.rewards)).sum()]
        counts = [len(lengths), len(deviations)]
        total = torch.tensor([*counts, *of_prompts, *of_answers], dtype=torch.float64)
        answers, prompts, deviation, equal, reward, length, cut, *scores = self._run.world.sum(total).tolist()
        found = {
            "reward": reward / answers,
            "reward_std": deviation / prompts,
            "no_difference": equal / prompts,
            "length": length / answers,
            "cut": cut / answers,
        }
        own = zip(self.rollouts.rewards.names, scores, strict=True)
        return found | ({f"reward/{name}": s / answers for name, s in own} if len(scores) > 1 else {})


def seed_of(*numbers: int) -> int:
    """A seed of 63 bits from the seed of the run, the update, the item and the number of the answer."""
    digest = hashlib.blake2b(" ".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def divide(lengths: Sequence[int], count: int) -> list[np.ndarray]:
    """The numbers of the answers of each of `count` batches, of about equally many tokens, in order."""
    totals, parts = [0] * count, [[] for _ in range(count)]  # type: list[int], list[list[int]]
    for number in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
        batch = totals.index(min(totals))
        parts[batch].append(number)
        totals[batch] += lengths[number]
    return [np.array(sorted(part), np.int64) for part in parts]


def _item(prompt: Sequence[int], answer: Sequence[int]) -> dict[str, Any]:
    ids = np.array([*prompt, *answer], np.int64)
    labels = np.array([*[IGNORE_INDEX] * len(prompt), *answer], np.int64)
    return {"input_ids": ids, "labels": labels, "cumulative_len": [0, len(ids)]}


def _as_plain(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch as plain containers and tensors, for a checkpoint."""
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in batch.items()}


def _from_plain(batch: dict[str, Any]) -> dict[str, Any]:
    arrays = ("loss_positions", "loss_targets")
    return {n: np.array(value, np.int64) if n in arrays else value for n, value in batch.items()}
