"""What is written of each row, and the summary of all.

{"id": "d.jsonl:1", "score": 1.25}                                             a number
{"id": "d.jsonl:2", "label": "spam", "probabilities": {"ham": 0.1, "spam": 0.9}}
{"id": "d.jsonl:3", "chosen": 1.5, "rejected": -0.5}                           a pair; a list if several
{"id": "d.jsonl:4", "scores": [0.5, 2.0, -1.0]}                                a list of answers
{"id": "d.jsonl:5", "error": "d.jsonl line 5: the row has no field ..."}       a row that cannot be read

With `"cut": true` a text was longer than the model reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from xtuner.language import translate
from xtuner.model.classifier import NUMBER, SEVERAL
from xtuner.scoring.rows import LIST, PAIR

Result = dict[str, Any]
NAMED = 3
"""The number of rows with an error that the summary names."""


def values_of(logits: Tensor, labels: Sequence[str], problem_type: str | None) -> list[Any]:
    """The value of each text from the head's numbers `[texts, labels]`: a number, or its label."""
    if problem_type == NUMBER:
        if len(labels) == 1:
            return logits[:, 0].tolist()
        return [dict(zip(labels, row, strict=True)) for row in logits.tolist()]
    chances = logits.sigmoid() if problem_type == SEVERAL else logits.softmax(-1)
    return [_classes(row, labels, problem_type) for row in chances]


def _classes(chances: Tensor, labels: Sequence[str], problem_type: str | None) -> Result:
    by_label = dict(zip(labels, chances.tolist(), strict=True))
    if problem_type == SEVERAL:
        return {"labels": [name for name, p in by_label.items() if p > 0.5], "probabilities": by_label}
    return {"label": labels[int(torch.argmax(chances))], "probabilities": by_label}


def result_of(kind: str, values: Sequence[Any]) -> Result:
    """What is written of a row with these values of its texts."""
    if kind == PAIR:
        return {"chosen": values[0], "rejected": values[1] if len(values) == 2 else list(values[1:])}
    if kind == LIST:
        return {"scores": list(values)}
    (value,) = values
    return value if isinstance(value, dict) and "probabilities" in value else {"score": value}


@dataclass
class Summary:
    """Counts and means of all results."""

    rows: int = 0
    num_errors: int = 0
    errors: list[str] = field(default_factory=list)
    cut: int = 0
    pairs: int = 0
    right: int = 0
    margin: float = 0.0  # the sum
    scores: int = 0
    total: float = 0.0
    lowest: float = math.inf
    highest: float = -math.inf
    labels: dict[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """What a user reads of it."""
        found = [translate("{rows:,} rows scored", rows=self.rows - self.num_errors)]
        if self.pairs:
            text = "{pairs:,} pairs: accuracy {accuracy:.4f}, mean margin {margin:.4f}"
            accuracy, margin = self.right / self.pairs, self.margin / self.pairs
            found.append(translate(text, pairs=self.pairs, accuracy=accuracy, margin=margin))
        if self.scores:
            text = "scores: mean {mean:.4f}, from {lowest:.4f} to {highest:.4f}"
            mean = self.total / self.scores
            found.append(translate(text, mean=mean, lowest=self.lowest, highest=self.highest))
        found += [f"{label}: {count:,}" for label, count in self.labels.items()]
        if self.cut:
            found.append(
                translate("{count:,} rows were cut at the length that the model reads", count=self.cut)
            )
        if self.num_errors:
            more = ", ..." if self.num_errors > len(self.errors) else ""
            text = "{count:,} rows could not be read: {errors}"
            found.append(translate(text, count=self.num_errors, errors="; ".join(self.errors) + more))
        return found

    def add(self, result: Mapping[str, Any]) -> None:
        """Count the result of a row."""
        self.rows += 1
        self.cut += bool(result.get("cut"))
        if "error" in result:
            self.num_errors += 1
            self.errors += [_named(result)] if len(self.errors) < NAMED else []
        for name in result.get("labels", [result["label"]] if "label" in result else []):
            self.labels[name] = self.labels.get(name, 0) + 1
        chosen, rejected = result.get("chosen"), result.get("rejected")
        others: list[Any] = rejected if isinstance(rejected, list) else [rejected]
        if isinstance(chosen, float):
            self.pairs += len(others)
            self.right += sum(chosen > other for other in others)
            self.margin += sum(chosen - other for other in others)
        for value in (chosen, *others, result.get("score"), *result.get("scores", ())):
            if isinstance(value, float):
                self.scores, self.total = self.scores + 1, self.total + value
                self.lowest, self.highest = min(self.lowest, value), max(self.highest, value)


def _named(result: Mapping[str, Any]) -> str:
    """The error of a row, with its position."""
    file = str(result["id"]).rpartition(":")[0]
    error = str(result["error"])
    return error if error.startswith(file) else f"{result['id']}: {error}"


def summarise(results: Iterable[Mapping[str, Any]]) -> Summary:
    """The summary of the results of all rows."""
    summary = Summary()
    for result in results:
        summary.add(result)
    return summary
