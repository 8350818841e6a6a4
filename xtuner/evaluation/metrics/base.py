"""What a metric of validation is.

    val_evaluator = dict(type=MyMetric, prefix="mine")
    process          after each batch: what the model has answered -> results
    compute_metrics  once, in the first process, with the results of all in the order of the data -> numbers

Metrics written for mmengine's BaseMetric are metrics here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any


class BaseMetric(ABC):
    """Base of metrics; `process` appends to `results`."""

    default_prefix: str | None = None

    def __init__(
        self, collect_device: str = "cpu", prefix: str | None = None, collect_dir: str | None = None
    ) -> None:
        """`prefix`: before the names of the numbers: `mine/accuracy`. The other two have no effect."""
        self.prefix = prefix or self.default_prefix
        self.results: list[Any] = []

    @abstractmethod
    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Append to `results` what counts of a batch.

        `data_samples` has a dict for each sequence of the batch: `logits`, [tokens, vocabulary].
        """

    @abstractmethod
    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """The numbers of all results."""
