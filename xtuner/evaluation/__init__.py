"""Measure trained models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xtuner.evaluation.metrics import BaseMetric, MMLUMetric

__all__ = ["BaseMetric", "MMLUMetric"]


def __getattr__(name: str) -> Any:
    # Imported on first use: commands look at this package without torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from xtuner.evaluation import metrics

    return getattr(metrics, name)
