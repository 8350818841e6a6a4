"""General texts and questions, encoded for one model.

task "english" of texts        40 samples, each token scored       -> general/english_perplexity
task "english" of questions    40 x 4 choices, the letters scored  -> general/english_accuracy

Texts are read as they are, without a chat template.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xtuner.errors import ConfigError, did_you_mean
from xtuner.evaluation.text.scored import Scored, TextEncoder
from xtuner.evaluation.text.tasks import CHOICES, PERPLEXITY, Task, read_task
from xtuner.language import translate

GENERAL = Path(__file__).parent / "general"
LANGUAGES = ("english", "chinese")


@dataclass(frozen=True)
class Metric:
    """A number of one task; `weights` are the tokens of each text, or 1 for each question.

    `own` are the samples of each item, `right` its right choice.
    """

    name: str
    own: Sequence[range]
    weights: Sequence[float]
    right: Sequence[int] | None = None

    @property
    def is_accuracy(self) -> bool:
        return self.right is not None

    def values(self, logprobs: Sequence[Sequence[float]]) -> list[float]:
        """Of each item the negative log-probability, or 1 if the likeliest choice is right and 0 if not."""
        parts = [[value for number in own for value in logprobs[number]] for own in self.own]
        if self.right is None:
            return [-sum(part) for part in parts]
        return [float(int(np.argmax(part)) == right) for part, right in zip(parts, self.right, strict=True)]


@dataclass(frozen=True)
class Items:
    """All samples, the numbers that are made of them, and a hash of both."""

    samples: Sequence[Scored]
    metrics: Sequence[Metric]
    key: str


def read_tasks(languages: Sequence[str], files: str | Sequence[str], limit: int | None = None) -> list[Task]:
    """The shipped tasks of `languages`, and those of the user's `files`: PATH or KIND=PATH."""
    if unknown := [name for name in languages if name not in LANGUAGES]:
        what = "ForgettingHook.languages: there are no general texts in {name!r}.{hint} There are {names}"
        hint = did_you_mean(str(unknown[0]), LANGUAGES)
        raise ConfigError(translate(what, name=unknown[0], hint=hint, names=", ".join(LANGUAGES)))
    given = [str(GENERAL / kind / f"{name}.jsonl") for name in languages for kind in ("texts", "questions")]
    given += [files] if isinstance(files, str) else files
    if not given:
        raise ConfigError(translate("ForgettingHook has nothing to measure: give files or languages"))
    tasks = [read_task(one, limit=limit) for one in given]
    for number, task in enumerate(tasks):
        if task.kind not in (CHOICES, PERPLEXITY):
            what = (
                "ForgettingHook.files: {path} has neither texts nor questions with choices: its rows need "
                "the field text, or question, choices and answer"
            )
            raise ConfigError(translate(what, path=task.path))
        if any(_name(task) == _name(other) for other in tasks[:number]):
            what = "ForgettingHook.files: {path} is the second that is named {name}: rename a file"
            raise ConfigError(translate(what, path=task.path, name=task.name))
    return tasks


def encode_tasks(tasks: Sequence[Task], tokenizer: Any, context: int | None) -> Items:
    """The samples of all tasks."""
    encoder = TextEncoder(tokenizer, context)
    samples: list[Scored] = []
    metrics = []
    for task in tasks:
        own, weights, right = [], [], []
        for question in task.questions:
            is_text = task.kind == PERPLEXITY
            made = (
                encoder.windows(question.prompt)
                if is_text
                else encoder.after(question.prompt, question.choices)
            )
            own.append(range(len(samples), len(samples) + len(made)))
            samples += made
            weights.append(float(sum(len(one.targets) for one in made)) if is_text else 1.0)
            right.append(question.right or 0)
        metrics.append(Metric(_name(task), own, weights, None if task.kind == PERPLEXITY else right))
    return Items(samples, metrics, _hash(samples, metrics))


def batch_of(samples: Sequence[Scored]) -> dict[str, Any]:
    """The samples as a flat batch, as of `flat_collate_fn`; a token may have several targets."""
    import torch

    boundaries = np.cumsum([0, *(len(sample.ids) for sample in samples)])
    positions = [
        np.asarray(sample.positions, np.int64) + start
        for sample, start in zip(samples, boundaries, strict=False)
    ]
    data = {
        "input_ids": torch.tensor([[token for sample in samples for token in sample.ids]]),
        "boundaries": boundaries.tolist(),
        "loss_positions": np.concatenate(positions),
        "loss_targets": np.array([token for sample in samples for token in sample.targets], np.int64),
    }
    return {"data": data, "data_samples": None}


def number_of(metric: Metric, values: Sequence[float]) -> float:
    """The perplexity or accuracy of all items."""
    mean = float(sum(values) / sum(metric.weights))
    return mean if metric.is_accuracy else float(np.exp(min(mean, 700.0)))


def numbers_of(items: Items, values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The number of each metric."""
    return {metric.name: number_of(metric, values[metric.name]) for metric in items.metrics}


def _name(task: Task) -> str:
    return f"general/{task.name}_{'perplexity' if task.kind == PERPLEXITY else 'accuracy'}"


def _hash(samples: Sequence[Scored], metrics: Sequence[Metric]) -> str:
    content: list[Any] = [[list(one.ids), list(one.targets)] for one in samples]
    content += [[metric.name, list(metric.right or [])] for metric in metrics]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()
