"""The data that a run trains on, and the data held out for validation.

val_dataloader = dict(held_out=0.05)             5 % of the training rows, which training then leaves out
val_dataloader = dict(dataset=dict(type=...))    other data
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from xtuner.config import Config
from xtuner.config.build import callee_of
from xtuner.errors import ConfigError
from xtuner.language import translate


def data_of_training(cfg: Config) -> Any:
    """The config of the training data, without the rows that `val_dataloader.held_out` holds out."""
    dataset = cfg.train_dataloader["dataset"]
    share = (cfg.get("val_dataloader") or {}).get("held_out")
    return with_part(dataset, share, False) if share else dataset


def data_of_validation(cfg: Config, name: str) -> Any:
    """The config of the data of `name` (val_dataloader or test_dataloader)."""
    given = cfg[name]
    if given.get("held_out"):
        return with_part(cfg.train_dataloader["dataset"], given["held_out"], True)
    return given["dataset"]


def with_part(dataset: Any, share: float, take: bool) -> Any:
    """`dataset` with one side of the split set in every data set in it that can hold rows out."""
    changed = _with_part(dataset, {"held_out": share, "take_held_out": take})
    if changed is dataset:
        raise ConfigError(
            translate(
                "val_dataloader.held_out: train_dataloader.dataset has no data set that can hold rows "
                "out; give val_dataloader a dataset of its own instead"
            )
        )
    return changed


def _can_hold_out(callee: Any, part: Mapping[str, Any]) -> bool:
    try:
        return part.keys() <= inspect.signature(callee).parameters.keys()
    except (TypeError, ValueError):  # no callable, or one without a signature
        return False


def _with_part(value: Any, part: Mapping[str, Any]) -> Any:
    """A copy of the changed parts; other objects are the same, since each is built only once."""
    if isinstance(value, list):
        inner = [_with_part(item, part) for item in value]
        return inner if any(a is not b for a, b in zip(inner, value, strict=True)) else value
    if not isinstance(value, dict):
        return value
    if value.get("type") is not None and _can_hold_out(callee_of(value, "train_dataloader.dataset"), part):
        return type(value)({**value, **part})
    items = {key: _with_part(item, part) for key, item in value.items()}
    return type(value)(items) if any(items[key] is not value[key] for key in items) else value
