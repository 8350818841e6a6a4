"""Validation of a run that learns from rewards: the mean reward of greedy answers to held-out prompts."""

from __future__ import annotations

from typing import Any

import torch

from xtuner.blocks import ANSWERS_AT_ONCE
from xtuner.dataset.prompt_dataset import PromptDataset
from xtuner.engine.batches.rollouts import Rollouts, answers_to
from xtuner.engine.validation import ValLoop, resting


class RewardValLoop(ValLoop):
    """Answers every prompt of `dataset` once, each process its part, with the likeliest tokens."""

    def __init__(self, runner: Any, dataset: PromptDataset, rollouts: Rollouts):
        self.runner = runner
        self.dataset, self.rollouts = dataset, rollouts
        self.dataloader = self  # type: ignore[assignment]  # whose `dataset` is that of validation
        self.evaluators = ()
        self.beside: list[Any] = []

    def _own_names(self) -> tuple[str, ...]:
        names = self.rollouts.rewards.names
        return ("reward", *(f"reward/{name}" for name in names if len(names) > 1), "length", "cut")

    def is_better_if_larger(self, name: str) -> bool:
        return name.startswith("reward") or super().is_better_if_larger(name)

    def measure(self) -> dict[str, float] | None:
        """The means over all prompts; None if a signal came."""
        run = self.runner
        if run.optim_wrapper is not None:
            run.optim_wrapper.show_average()
        with resting(run.model):
            return self._rewards()

    def _is_stopped(self) -> bool:
        """Whether any process has received a signal; a collective."""
        loop = self.runner.train_loop
        return loop is not None and bool(loop.stop_asked())

    def _rewards(self) -> dict[str, float] | None:
        run, size = self.runner, self.runner.world.size
        own = list(range(len(self.dataset)))[run.world.rank :: size]
        sampling = self.rollouts.sampling(self.dataset, temperature=0.0)
        total = torch.zeros(4 + len(self.rollouts.rewards.names), dtype=torch.float64)
        # As many rounds on all processes, which stop together; one may have no prompt in the last.
        for start in range(0, -(-len(self.dataset) // size), ANSWERS_AT_ONCE):
            if self._is_stopped():
                return None
            some = own[start : start + ANSWERS_AT_ONCE]
            found = answers_to(run, self.rollouts, self.dataset, some, [sampling] * len(some))
            if found is None:
                continue
            lengths = sum(len(completion.ids) for completion in found.completions)
            numbers = [len(some), found.rewards.sum(), lengths, found.is_cut.sum(), *found.scores.sum(0)]
            total += torch.tensor(numbers, dtype=torch.float64)
        if self._is_stopped():
            return None
        count, reward, length, cut, *scores = run.world.sum(total).tolist()
        of_each = scores if len(scores) > 1 else []
        values = [value / count for value in (reward, *of_each, length, cut)]
        return dict(zip(self._own_names(), values, strict=True))
