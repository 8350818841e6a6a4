"""Measure trained models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xtuner.evaluation.forgetting.hook import ForgettingHook
    from xtuner.evaluation.metrics import BaseMetric, MMLUMetric

__all__ = ["BaseMetric", "ForgettingHook", "MMLUMetric"]

_ROOMS = {"BaseMetric": "metrics", "ForgettingHook": "forgetting.hook", "MMLUMetric": "metrics"}


def __getattr__(name: str) -> Any:
    # Imported on first use: commands look at this package without torch.
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ROOMS[name]}"), name)
