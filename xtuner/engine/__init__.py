"""One training run: the loop, the optimiser, hooks, checkpoints."""

from xtuner.engine.hooks import (
    DatasetInfoHook,
    EvaluateChatHook,
    ThroughputHook,
    VarlenAttnArgsToMessageHubHook,
)

__all__ = ["DatasetInfoHook", "EvaluateChatHook", "ThroughputHook", "VarlenAttnArgsToMessageHubHook"]
