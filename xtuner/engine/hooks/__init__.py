"""The actions around the training loop: measuring, logging, saving, sampling."""

import pkgutil
from typing import Any

from xtuner.config.mmengine_names import SAME_JOB
from xtuner.engine.hooks.checkpoint import CheckpointHook
from xtuner.engine.hooks.dataset_info import DatasetInfoHook
from xtuner.engine.hooks.early_stopping import EarlyStoppingHook
from xtuner.engine.hooks.evaluate_chat import EvaluateChatHook
from xtuner.engine.hooks.hook import Hook, call_hooks, sort_hooks
from xtuner.engine.hooks.lisa import LISAHook
from xtuner.engine.hooks.logger import LoggerHook
from xtuner.engine.hooks.neftune import NEFTuneHook
from xtuner.engine.hooks.runtime import (
    DistSamplerSeedHook,
    IterTimerHook,
    ParamSchedulerHook,
    RuntimeInfoHook,
    VarlenAttnArgsToMessageHubHook,
)
from xtuner.engine.hooks.throughput import ThroughputHook
from xtuner.engine.hooks.validation import ValidationHook

# name in `default_hooks` -> its default
DEFAULT_HOOKS = {
    "runtime_info": RuntimeInfoHook,
    "timer": IterTimerHook,
    "sampler_seed": DistSamplerSeedHook,
    "logger": LoggerHook,
    "param_scheduler": ParamSchedulerHook,
    "validation": ValidationHook,
    "checkpoint": CheckpointHook,
}

__all__ = [
    "DEFAULT_HOOKS",
    "CheckpointHook",
    "DatasetInfoHook",
    "DistSamplerSeedHook",
    "EarlyStoppingHook",
    "EvaluateChatHook",
    "Hook",
    "IterTimerHook",
    "LISAHook",
    "LoggerHook",
    "NEFTuneHook",
    "ParamSchedulerHook",
    "RuntimeInfoHook",
    "ThroughputHook",
    "ValidationHook",
    "VarlenAttnArgsToMessageHubHook",
    "call_hooks",
    "sort_hooks",
]


def __getattr__(name: str) -> Any:
    # Hooks that need what is above the engine are imported on first use.
    path = SAME_JOB.get(f"{__name__}.{name}")
    if path is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return pkgutil.resolve_name(path)
