"""Metrics of answers that training measures: `val_evaluator`, `test_evaluator`."""

from xtuner.evaluation.metrics.base import BaseMetric
from xtuner.evaluation.metrics.mmlu import MMLUMetric

__all__ = ["BaseMetric", "MMLUMetric"]
