"""Faults of a config whose data is streamed: its length is not known, so nothing can count epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xtuner.config.schema import Fault
from xtuner.language import translate

_UNKNOWN = "with streaming = True the length of an epoch is not known"


def streaming_faults(config: Mapping[str, Any]) -> list[Fault]:
    """The faults of `epoch_faults` if the data set of training is streamed, or parts of it are."""
    loader = config.get("train_dataloader")
    return epoch_faults(config) if isinstance(loader, Mapping) and _streams(loader.get("dataset")) else []


def _streams(dataset: Any) -> bool:
    if isinstance(dataset, Mapping):
        return dataset.get("streaming") is True or _streams(dataset.get("datasets"))
    return isinstance(dataset, list) and any(map(_streams, dataset))


def epoch_faults(config: Mapping[str, Any]) -> list[Fault]:
    """A fault for each setting that counts epochs."""
    found, why = [], translate(_UNKNOWN)
    length = config.get("train_cfg")
    if isinstance(length, Mapping) and (epochs := length.get("max_epochs")) is not None:
        message = translate(
            "train_cfg.max_epochs is {epochs}, and {why}: give train_cfg = dict(type=TrainLoop, "
            "max_iters=...) instead",
            epochs=epochs,
            why=why,
        )
        found.append(Fault("train_cfg.max_epochs", message))
    schedules = config.get("param_scheduler") or []
    for number, one in enumerate(schedules if isinstance(schedules, list) else [schedules]):
        if isinstance(one, Mapping) and one.get("by_epoch", True):
            message = translate(
                "param_scheduler.{number} counts epochs, and {why}: set by_epoch = False, and begin and "
                "end in iterations",
                number=number,
                why=why,
            )
            found.append(Fault(f"param_scheduler.{number}", message))
    hooks = config.get("default_hooks")
    saving = hooks.get("checkpoint") if isinstance(hooks, Mapping) else None
    if isinstance(saving, Mapping) and saving.get("by_epoch", True) and saving.get("interval", -1) > 0:
        message = translate(
            "default_hooks.checkpoint counts epochs, and {why}: set by_epoch = False, and interval in "
            "iterations",
            why=why,
        )
        found.append(Fault("default_hooks.checkpoint", message))
    return found
